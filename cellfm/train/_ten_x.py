"""10x Genomics matrices by rows: HDF5 files as they are, Matrix Market text by way of temporary files."""

import gzip
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from cellfm.errors import InputError

_CHUNK = 4_000_000  # lines of text at once


@dataclass(frozen=True)
class TenXRows:
    """Rows of a CSR matrix whose arrays lie on disk."""

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
        return sp.csr_matrix((data, indices, indptr), shape=(stop - start, self.shape[1]))

    def skeleton(self) -> AnnData:
        """The cells and genes without any counts."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(Variable|Observation) names are not unique", UserWarning)
            return AnnData(sp.csr_matrix(self.shape, dtype=np.float32), obs=self.obs, var=self.var)

    @classmethod
    def open(cls, path: Path, stack: ExitStack) -> "TenXRows":
        """Open an .h5 file of Cell Ranger: its columns are cells, so that its columns are our rows."""
        import h5py

        try:
            file = stack.enter_context(h5py.File(path))
            groups = [file[name] for name in file if {"data", "indices", "indptr"} <= set(file[name])]
            if len(groups) > 1:
                names = ", ".join(repr(group.name.strip("/")) for group in groups)
                raise InputError(
                    f"{path} holds several genomes ({names}), as mixed-species experiments do. Keep the human cells "
                    "and genes, in a file of their own."
                )
            group = groups[0]
            features = group.get("features", group)
            var = pd.DataFrame(index=_text(features["name" if "name" in features else "gene_names"]))
            var["gene_ids"] = _text(features["id" if "id" in features else "genes"])
            shape = (int(group["shape"][1]), int(group["shape"][0]))
            rows = cls(
                group["data"], group["indices"], group["indptr"][:], shape, _cells(_text(group["barcodes"])), var
            )
            if "feature_type" not in features:
                return rows
            return rows.only_genes(_text(features["feature_type"]))
        except (OSError, KeyError, RuntimeError) as error:
            raise InputError(f"{path} looks like 10x h5 but cannot be read: {error}. Get it anew.") from error

    def only_genes(self, types: np.ndarray) -> "TenXRows":
        """Without the antibodies and guides that the file also counts."""
        kept = types == "Gene Expression"
        if kept.all() or not kept.any():
            return self
        place = np.where(kept, np.cumsum(kept) - 1, -1)
        return _OfGenes(
            self.data,
            self.indices,
            self.indptr,
            (self.shape[0], int(kept.sum())),
            self.obs,
            self.var[kept],
            place,
        )


@dataclass(frozen=True)
class _OfGenes(TenXRows):
    """Some of the columns."""

    place: np.ndarray

    def __getitem__(self, rows: slice) -> sp.csr_matrix:
        whole = TenXRows(self.data, self.indices, self.indptr, (self.shape[0], len(self.place)), self.obs, self.var)
        return whole[rows][:, np.flatnonzero(self.place >= 0)]


def open_mtx(folder: Path, stack: ExitStack) -> TenXRows:
    """Open a 10x folder: the text is read once, in pieces, into files that are removed when the input is closed.

    Raises
    ------
    InputError
        A file of the folder is missing or damaged.
    """
    matrix = next(file for file in sorted(folder.iterdir()) if file.name.endswith(("matrix.mtx", "matrix.mtx.gz")))
    prefix = matrix.name[: matrix.name.index("matrix.mtx")]
    genes = _table(folder, prefix, ("features.tsv", "genes.tsv"))
    barcodes = _table(folder, prefix, ("barcodes.tsv",))
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cellfm-")))
    try:
        with _opened(matrix) as file:
            shape = _head(file)
            if shape[:2] != (len(genes), len(barcodes)):
                raise InputError(
                    f"{matrix} has {shape[0]:,} genes x {shape[1]:,} cells, and the folder names {len(genes):,} genes "
                    f"and {len(barcodes):,} cells."
                )
            rows = _store(file, scratch, shape)
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{matrix} cannot be read: {error}. It may be cut short or damaged; get it anew.") from error
    var = pd.DataFrame({"gene_ids": genes[0].to_numpy()}, index=genes[1 if 1 in genes else 0].to_numpy())
    opened = TenXRows(*rows, (shape[1], shape[0]), _cells(barcodes[0].to_numpy()), var)
    return opened.only_genes(genes[2].to_numpy()) if 2 in genes else opened


def _store(file: Any, scratch: Path, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, genes and starts of the cells, as maps of files; cells must come one after the other, as 10x writes."""
    per_cell = np.zeros(shape[1], np.int64)
    last = found = 0
    names = ("data", "indices")
    with (scratch / names[0]).open("wb") as data, (scratch / names[1]).open("wb") as indices:
        for chunk in _chunks(file):
            if chunk.shape[1] != 3 or chunk[2].isna().any():
                raise ValueError("a line does not hold gene, cell and count")
            cells, genes = chunk[1].to_numpy(np.int64), chunk[0].to_numpy(np.int32) - 1
            if not len(cells):
                continue
            if cells.min() < 1 or cells.max() > shape[1] or genes.min() < 0 or genes.max() >= shape[0]:
                raise InputError(f"an entry lies outside of {shape[0]:,} genes x {shape[1]:,} cells")
            if cells[0] < last or (np.diff(cells) < 0).any():
                raise InputError(
                    f"{file.name}: its entries are not sorted by cell, as 10x Genomics writes them. Read it with "
                    "scanpy.read_10x_mtx and pass the AnnData object or an .h5ad file."
                )
            last = int(cells[-1])
            found += len(cells)
            per_cell += np.bincount(cells - 1, minlength=shape[1])
            data.write(chunk[2].to_numpy(np.float32).tobytes())
            indices.write(genes.tobytes())
    if found != shape[2]:
        raise InputError(f"{file.name} is cut short: {found:,} entries of {shape[2]:,}. Get it anew.")
    types = (np.float32, np.int32)
    maps = [
        np.memmap(scratch / name, dtype, "r") if found else np.zeros(0, dtype)
        for name, dtype in zip(names, types, strict=True)
    ]
    return maps[0], maps[1], np.concatenate(([0], np.cumsum(per_cell)))


def _head(file: Any) -> tuple[int, int, int]:
    """Genes, cells and entries."""
    first = file.readline()
    if not first.startswith("%%MatrixMarket matrix coordinate"):
        raise InputError(f"{file.name} is no sparse matrix in Matrix Market format; it begins with {first[:40]!r}.")
    line = file.readline()
    while line.startswith("%"):
        line = file.readline()
    n_genes, n_cells, n_entries = map(int, line.split())
    return n_genes, n_cells, n_entries


def _chunks(file: Any) -> Iterator[pd.DataFrame]:
    try:
        yield from pd.read_csv(file, sep=r"\s+", header=None, chunksize=_CHUNK)
    except pd.errors.EmptyDataError:
        return


def _opened(path: Path) -> Any:
    return gzip.open(path, "rt") if path.suffix == ".gz" else path.open()


def _table(folder: Path, prefix: str, names: tuple[str, ...]) -> pd.DataFrame:
    for name in names:
        for path in (folder / f"{prefix}{name}", folder / f"{prefix}{name}.gz"):
            if path.is_file():
                return pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False)
    raise InputError(f"{folder} has no {' or '.join(prefix + name for name in names)} beside its matrix.")


def _text(values: Any) -> np.ndarray:
    return values.asstr()[:].astype(object)


def _cells(barcodes: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(index=barcodes.astype(str))
