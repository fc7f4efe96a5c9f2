"""Inputs of shards: files and AnnData objects under unique names, opened so that their matrices stay on disk."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.collection import tables_of_collection
from cellfm.cells.find_10x import locate
from cellfm.cells.matrix import Matrix, read_matrix
from cellfm.cells.read import cell_format, read_cells
from cellfm.cells.read_10x import open_10x_h5
from cellfm.cells.read_anndata import by_elements
from cellfm.cells.select import select
from cellfm.corpus._ten_x import open_mtx
from cellfm.errors import InputError, InputTypeError
from cellfm.io.logging import logger
from cellfm.io.messages import reason_of

Input: TypeAlias = str | Path | AnnData | MuData
_SUFFIX = re.compile(r"\.(h5ad|h5mu|zarr|h5|hdf5|loom|csv|tsv|txt)(\.(gz|bz2|xz))?$", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """One input."""

    name: str
    data: Path | AnnData | MuData


@dataclass(frozen=True)
class Table:
    """An opened input: the matrix of counts and the columns of its cells."""

    matrix: Matrix
    obs: pd.DataFrame
    adata: AnnData
    """The table in which messages look for counts."""


def name_sources(inputs: Input | Sequence[Input]) -> list[Source]:
    """Give every input a name: the file name without ending, with its folders if two would be equal.

    A collection of annbatch is as many inputs as it has tables.
    """
    given = [inputs] if isinstance(inputs, str | Path | AnnData | MuData) else list(inputs)
    if not given:
        raise InputError("No inputs: pass paths of files of cells, or AnnData objects.")
    sources: list[Source] = []
    for number, one in enumerate(given, start=1):
        if isinstance(one, str | Path):
            path = Path(one).expanduser()
            name = _SUFFIX.sub("", path.name) or path.name
            tables = tables_of_collection(path)
            sources += [Source(f"{name}/{table.name}", table) for table in tables] or [Source(name, path)]
        elif isinstance(one, AnnData | MuData):
            sources.append(Source(f"input {number}", one))
        else:
            raise InputTypeError(f"Inputs are paths, AnnData or MuData objects; found {type(one).__name__}.")
    for i, source in enumerate(sources):
        same = [other for other in sources[:i] if _same(other.data, source.data)]
        if same:
            raise InputError(f"{source.data if isinstance(source.data, Path) else source.name} is given twice.")
    names = [source.name for source in sources]
    return [
        Source(str(source.data), source.data)
        if names.count(source.name) > 1 and isinstance(source.data, Path)
        else source
        for source in sources
    ]


@contextmanager
def open_table(source: Source, *, layer: str | None, modality: str, genome: str | None = None) -> Iterator[Table]:
    """Open an input: h5ad, zarr, 10x h5 and mtx stay on disk; other formats, and inputs with a chosen genome, are
    loaded completely.
    """
    with ExitStack() as stack:
        if not isinstance(source.data, Path):
            adata = select(source.data, modality)
            yield Table(read_matrix(adata, layer), adata.obs, adata)
            return
        path = locate(source.data, genome)
        kind = cell_format(path)
        rows = None
        if kind in ("10x h5", "10x mtx") and layer in (None, "X") and genome is None:
            rows = open_10x_h5(path, stack) if kind == "10x h5" else open_mtx(path, stack)
        if rows is not None:
            adata = select(rows.skeleton())
            yield Table(Matrix(rows, adata.var, "adata.X"), adata.obs, adata)
            return
        adata = _on_disk(path, kind, stack) if kind in ("h5ad", "zarr") and genome is None else None
        if adata is None:
            data = read_cells(path, backed=kind == "h5ad" and genome is None, genome=genome)
            adata = select(data, modality)
            if adata.isbacked:
                stack.callback(adata.file.close)
        yield Table(_by_rows(read_matrix(select(adata), layer), source.name), adata.obs, adata)


def _same(one: object, other: object) -> bool:
    if isinstance(one, Path) and isinstance(other, Path):
        return one.resolve() == other.resolve()
    return one is other


def _on_disk(path: Path, kind: str, stack: ExitStack) -> AnnData | None:
    """X, layers and raw as stored in the file; None for files from before anndata 0.7.

    `anndata.read_h5ad(backed="r")` would read layers, obsm and obsp into memory.
    """
    try:
        group = _group(path, kind, stack)
        if group.attrs.get("encoding-type") != "anndata":
            return None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(Variable|Observation) names are not unique", UserWarning)
            adata = by_elements(group, _element, path, only_counts=True)
    except Exception as error:
        raise InputError(
            f"{path} looks like {kind} but cannot be read: {reason_of(error)}. It may be cut short or damaged; get a "
            "new copy."
        ) from error
    return adata


def _group(path: Path, kind: str, stack: ExitStack) -> Any:
    if kind == "h5ad":
        import h5py

        return stack.enter_context(h5py.File(path))
    import zarr

    return zarr.open(path, mode="r")


def _element(found: Any) -> Any:
    from anndata.io import sparse_dataset

    return sparse_dataset(found) if hasattr(found, "keys") else found


def _by_rows(matrix: Matrix, name: str) -> Matrix:
    """Sparse matrices stored by columns are converted in memory, because rows cannot be read from them."""
    if not matrix.in_memory and getattr(matrix.values, "format", "") == "csc":
        logger.info("%s: %s is stored by columns (CSC) and is read whole; CSR needs less memory.", name, matrix.name)
        return Matrix(matrix.values.to_memory().tocsr(), matrix.var, matrix.name)
    return matrix
