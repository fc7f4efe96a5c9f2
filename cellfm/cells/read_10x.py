"""Read HDF5 files and folders of all versions of Cell Ranger and of STARsolo, completely or by rows.

The readers of scanpy know only the names and layouts of Cell Ranger itself, read no rows, and fail on a damaged file
with an error that names no file; so this file reads the tables itself, and leaves only the matrix to SciPy.
"""

import inspect
import re
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellfm.cells.compressed import UNREADABLE, opened
from cellfm.cells.find_10x import matrices
from cellfm.errors import InputError
from cellfm.genes.features import is_human
from cellfm.io.logging import logger
from cellfm.io.messages import reason_of

if TYPE_CHECKING:
    from anndata import AnnData

_PARTS = {"data", "indices", "indptr"}
_TYPES = re.compile(r"^(gene expression|.* capture|custom|peaks|vdj.*)$", re.IGNORECASE)
_GENOME = re.compile(r"^(GRCh|GRCm|hg\d|mm\d)", re.IGNORECASE)
_HEADER = re.compile(r"^(x|v1|genes?|gene_?(id|name|symbol)s?|features?|barcodes?|cells?|cell_?(id|barcode)s?)$", re.I)


@dataclass(frozen=True)
class TenXRows:
    """Cells x genes on disk; rows are read on access."""

    data: Any
    indices: Any
    indptr: np.ndarray
    shape: tuple[int, int]
    obs: pd.DataFrame
    var: pd.DataFrame

    def __getitem__(self, rows: slice) -> sp.csr_matrix:
        start, stop, _ = rows.indices(self.shape[0])
        first, last = int(self.indptr[start]), int(self.indptr[stop])
        indptr = self.indptr[start : stop + 1] - first
        data, indices = np.asarray(self.data[first:last]), np.asarray(self.indices[first:last])
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.shape[1]:
            raise OSError(f"an entry is outside the {self.shape[1]:,} genes")
        return sp.csr_matrix((data, indices, indptr), shape=(stop - start, self.shape[1]))

    def skeleton(self) -> "AnnData":
        """The cells and genes without any counts."""
        return _adata(sp.csr_matrix(self.shape, dtype=np.float32), self.obs, self.var)

    def whole(self) -> "AnnData":
        """All of it, in memory."""
        return _adata(self[0 : self.shape[0]].astype(np.float32), self.obs, self.var)


def ten_x_groups(file: Any) -> list[str]:
    """Groups of an open HDF5 file that hold a sparse matrix as Cell Ranger writes it."""
    return [name for name, group in file.items() if hasattr(group, "keys") and set(group.keys()) >= _PARTS]


def open_10x_h5(path: Path, stack: ExitStack, genome: str | None = None) -> TenXRows:
    """Open an .h5 file of Cell Ranger 2 and later: its columns are cells, so that its columns are our rows.

    Raises
    ------
    InputError
        It is damaged; or it holds several genomes, of which not exactly one is human, and none was chosen.
    """
    import h5py

    try:
        file = stack.enter_context(h5py.File(path))
        group = file[_chosen(ten_x_groups(file), path, genome)]
        features = group.get("features", group)
        shape = (int(group["shape"][1]), int(group["shape"][0]))
        obs = pd.DataFrame(index=_text(group["barcodes"]))
        var = _genes(features, shape[1])
        indptr = group["indptr"][:]
        expected, found = (shape[1], shape[0], shape[0] + 1), (len(var), len(obs), len(indptr))
        if expected != found or len(group["data"]) != len(group["indices"]) or indptr[-1] > len(group["data"]):
            raise OSError(
                f"its parts do not match: {shape[1]:,} genes x {shape[0]:,} cells with {len(var):,} names of "
                f"genes and {len(obs):,} barcodes"
            )
        if "filtered_barcodes" in group and len(group["filtered_barcodes"]) == len(obs):
            obs["filtered_barcodes"] = group["filtered_barcodes"][:].astype(bool)
        return TenXRows(group["data"], group["indices"], indptr, shape, obs, var)
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).strip("'\"") or type(error).__name__
        raise InputError(
            f"{path} looks like 10x h5 but cannot be read: {reason}. It may be cut short or damaged. Get a new copy."
        ) from error


def _chosen(groups: list[str], path: Path, genome: str | None) -> str:
    """The group to read: Cell Ranger 2 wrote one for each genome."""
    if "matrix" in groups:
        return "matrix"
    if genome is not None and genome not in groups:
        raise InputError(f"{path} contains no genome {genome!r}; available: {', '.join(groups)}.")
    human = [genome] if genome is not None else [name for name in groups if is_human(name)]
    if len(groups) > 1 and len(human) != 1:
        raise InputError(
            f"{path} contains several genomes ({', '.join(groups)}), and it is unclear which one to read. Choose "
            f"one with genome={groups[0]!r}, or another of them."
        )
    chosen = human[0] if len(groups) > 1 else groups[0]
    if len(groups) > 1:
        others = ", ".join(name for name in groups if name != chosen)
        logger.info("%s: reading the genes of %s; those of %s are left out.", path, chosen, others)
    return chosen


def _genes(features: Any, n: int) -> pd.DataFrame:
    names = next(name for name in ("name", "gene_names", "id", "genes", "") if name in features or not name)
    if not names:
        raise KeyError("there are no gene names")
    var = pd.DataFrame(index=_text(features[names]))
    ids = next((name for name in ("gene_id", "id", "genes") if name in features), None)
    if ids is not None:
        var["gene_ids"] = _text(features[ids])
    if "gene_id" in features and "id" in features:  # a matrix of probes
        var["probe_ids"] = _text(features["id"])
    if "feature_type" in features:
        var["feature_types"] = _text(features["feature_type"])
    for name, values in features.items():
        if name in ("name", "gene_names", "id", "gene_id", "genes", "feature_type", "barcodes"):
            continue
        if getattr(values, "shape", None) == (n,) and values.dtype.kind in "SOb":
            var[name] = values[:] if values.dtype.kind == "b" else _text(values)
    return var


@dataclass(frozen=True)
class TenXFolder:
    """A matrix in Matrix Market format with its tables of genes and cells."""

    matrix: Path
    obs: pd.DataFrame
    var: pd.DataFrame
    is_turned: bool
    """Whether the matrix is cells x genes, as other programs than those of 10x Genomics write it."""

    @classmethod
    def open(cls, folder: Path) -> "TenXFolder":
        """Read the tables, and check that they fit the matrix.

        Raises
        ------
        InputError
            A file is missing or damaged, or the numbers of lines do not fit.
        """
        matrix = matrices(folder)[0]
        prefix = matrix.name[: matrix.name.rindex("matrix.mtx")]
        features_path = _beside(folder, prefix, ("features.tsv", "genes.tsv"), "genes")
        barcodes_path = _beside(folder, prefix, ("barcodes.tsv",), "cells")
        features, barcodes = _table(features_path), _table(barcodes_path)
        n_rows, n_columns = _matrix_shape(matrix)
        features, barcodes = _headless(features, (n_rows, n_columns)), _headless(barcodes, (n_rows, n_columns))
        found = len(features), len(barcodes)
        if found != (n_rows, n_columns) and found != (n_columns, n_rows):
            raise InputError(
                f"{matrix} has {n_rows:,} genes x {n_columns:,} cells, but {features_path.name} names {found[0]:,} "
                f"genes and {barcodes_path.name} {found[1]:,} cells. One of the files is incomplete, or belongs to "
                "another sample."
            )
        obs = pd.DataFrame(index=pd.Index(barcodes[0].to_numpy(dtype=object)))
        return cls(matrix, obs, _var(features), is_turned=found != (n_rows, n_columns))

    def whole(self) -> "AnnData":
        """The complete matrix in memory, by SciPy's reader."""
        from scipy.io import mmread

        # Said only to keep SciPy 1.18 from warning that its default will change; earlier ones know no such parameter.
        as_matrix = {"spmatrix": True} if "spmatrix" in inspect.signature(mmread).parameters else {}

        try:
            with opened(self.matrix) as file:
                values = sp.csr_matrix(mmread(file, **as_matrix))
        except (*UNREADABLE, ValueError, TypeError, OverflowError) as error:
            raise InputError(
                f"{self.matrix} cannot be read: {reason_of(error)}. It may be cut short or damaged; get a new copy."
            ) from error
        values = values if self.is_turned else values.T.tocsr()
        return _adata(values.astype(np.float32), self.obs, self.var)


def read_head(file: IO[bytes], path: Path) -> tuple[int, int, int]:
    """Rows, columns and entries of a Matrix Market file that was opened; its entries follow.

    Raises
    ------
    InputError
        It is not a Matrix Market file.
    ValueError
        It is damaged.
    """
    first = file.readline(200)
    if not first.startswith(b"%%MatrixMarket matrix coordinate"):
        shown = first.decode(errors="replace")[:40]
        raise InputError(f"{path} is not a sparse matrix in Matrix Market format; it begins with {shown!r}.")
    line = file.readline()
    while line.startswith(b"%") or line.isspace():
        line = file.readline()
    n_rows, n_columns, n_entries = map(int, line.split())
    return n_rows, n_columns, n_entries


def _matrix_shape(path: Path) -> tuple[int, int]:
    try:
        with opened(path) as file:
            return read_head(file, path)[:2]
    except (*UNREADABLE, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read: {error}. It may be cut short or damaged; get a new copy.") from error


def _beside(folder: Path, prefix: str, names: tuple[str, ...], what: str) -> Path:
    """A table next to the matrix, compressed or not; with another prefix only if there is just one."""
    ends = ("", ".gz", ".bz2", ".xz")
    for name in names:
        for end in ends:
            if (path := folder / f"{prefix}{name}{end}").is_file():
                return path
    suffixes = tuple(f"{name}{end}" for name in names for end in ends)
    others = [file for file in sorted(folder.iterdir()) if file.name.endswith(suffixes)]
    if len(others) == 1:
        return others[0]
    wanted = " or ".join(prefix + name for name in names)
    there = ", ".join(sorted(file.name for file in folder.iterdir())[:10])
    raise InputError(
        f"{folder} has no {wanted} (compressed or not) next to its matrix, with the names of the {what}; available: "
        f"{there}."
    )


def _table(path: Path) -> pd.DataFrame:
    """A table of text without header; quotes around fields, as R writes them, are removed."""
    try:
        with opened(path) as file:
            lines = [line.rstrip("\r").split("\t") for line in file.read().decode().split("\n")]
    except (*UNREADABLE, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}. It may be cut short or damaged; get a new copy.") from error
    lines = lines[:-1] if lines[-1] == [""] else lines
    if not lines:
        return pd.DataFrame({0: []}, dtype=object)
    width = max(map(len, lines))
    fields = [[field.strip('"') for field in line] + [""] * (width - len(line)) for line in lines]
    return pd.DataFrame(fields, dtype=object)


def _headless(table: pd.DataFrame, sizes: tuple[int, int]) -> pd.DataFrame:
    """The table without its header line, if there is one line too many."""
    is_header = len(table) and len(table) not in sizes and len(table) - 1 in sizes
    return table.iloc[1:].reset_index(drop=True) if is_header and _HEADER.match(str(table.iloc[0, 0])) else table


def _var(features: pd.DataFrame) -> pd.DataFrame:
    """The table of genes, of one to any number of columns: ids, names, feature types, genomes."""
    columns = [features[i].to_numpy(dtype=object) for i in features if i == 0 or features[i].any()]
    types = next((i for i, c in enumerate(columns) if i and all(_TYPES.match(x) or not x for x in c)), None)
    genomes = next((i for i, c in enumerate(columns) if i and len(set(c)) < 9 and all(map(_GENOME.match, c))), None)
    others = [column for i, column in enumerate(columns) if i not in (types, genomes)]
    names = others[1] if len(others) > 1 else others[0]
    var = pd.DataFrame(index=pd.Index(names))
    if len(others) > 1:
        var["gene_ids"] = others[0]
    if types is not None:
        var["feature_types"] = columns[types]
    if genomes is not None:
        var["genome"] = columns[genomes]
    return var


def _text(values: Any) -> np.ndarray:
    return values.asstr()[:].astype(object)


def _adata(values: sp.csr_matrix, obs: pd.DataFrame, var: pd.DataFrame) -> "AnnData":
    from anndata import AnnData

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(Variable|Observation) names are not unique", UserWarning)
        return AnnData(values, obs=obs, var=var)
