"""`Matrix`: cells x genes as a user names them, in memory or on disk, read in blocks of rows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from cellfm.cells.blocks import DaskRows, sliceable, to_csr
from cellfm.cells.forms import SAMPLE_CELLS, recognise
from cellfm.cells.values import Values, describe, rounded
from cellfm.errors import InputError, MissingKeyError
from cellfm.genes.features import Features, read_features
from cellfm.io.messages import warn

BLOCK_CELLS = 2048
"""Cells per block, which limits the memory for reading."""


_SAMPLE_CELLS = 512


@dataclass(frozen=True)
class Matrix:
    """Cells x genes, in memory or on disk, read in blocks of rows; columns that are not genes have no entries."""

    values: Any
    """The numbers: NumPy, SciPy, or a dataset on disk."""
    var: pd.DataFrame
    """The table of genes that belongs to it."""
    name: str
    """Its name for the user: ``adata.X``, ``adata.layers['counts']``, ``adata.raw.X``."""
    as_counts: bool = False
    """Whether rows are rounded to whole numbers and refused if they are not counts; see `require_counts`."""

    @property
    def n_cells(self) -> int:
        return self.values.shape[0]

    @property
    def var_name(self) -> str:
        """The name of the table of genes for the user."""
        return "adata.raw.var" if self.name == "adata.raw.X" else "adata.var"

    @property
    def in_memory(self) -> bool:
        return isinstance(self.values, np.ndarray) or sp.issparse(self.values)

    @property
    def in_dask(self) -> bool:
        return isinstance(self.values, DaskRows)

    def with_values(self, values: Any) -> "Matrix":
        """The same genes with other values; which rows of `var` are genes is not found out again."""
        other = replace(self, values=values)
        other.__dict__["features"] = self.features
        return other

    @cached_property
    def features(self) -> Features:
        """Which rows of `var` are human genes."""
        return read_features(self.var)

    @property
    def is_gene(self) -> np.ndarray:
        """(n_vars,) bool: human gene expression, and not antibodies, guides, peaks or genes of another species."""
        return self.features.is_gene

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        """Some cells as CSR, (n_rows, n_vars); only genes have entries.

        Raises
        ------
        InputError
            The matrix is read as counts, but these cells hold none; data on disk were only checked by a sample before.
        """
        block = self._read(start, stop)
        if not self.as_counts:
            return block
        found = describe(block.data)
        if found.kind not in ("counts", "empty"):
            raise InputError(
                f"{self.name} has {found} in cells {start:,} to {stop - 1:,}, where counts were expected; nothing was "
                "written. Correct these cells or remove them, and start again."
            )
        return rounded(block) if found.off else block

    def _read(self, start: int, stop: int) -> sp.csr_matrix:
        return self.only_genes(to_csr(self.values[start:stop], self.name))

    def only_genes(self, block: sp.csr_matrix) -> sp.csr_matrix:
        """A block of rows without the entries of columns that are not genes; the shape does not change."""
        if self.features.all_genes:
            return block
        kept = self.is_gene[block.indices]
        indptr = np.concatenate(([0], np.cumsum(kept)))[block.indptr]
        return sp.csr_matrix((block.data[kept], block.indices[kept], indptr), shape=block.shape)

    def blocks(self, n_cells: int = BLOCK_CELLS, of: slice | None = None) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Cells in order, in blocks: all, or those of a span."""
        first, end = (0, self.n_cells) if of is None else (of.start, of.stop)
        for start in range(first, end, n_cells):
            stop = min(start + n_cells, end)
            yield slice(start, stop), self.rows(start, stop)

    def describe(self) -> Values:
        """A description of the values: of all values in memory, of a sample on disk. The form is recognised from some
        cells.
        """
        if self.in_memory:
            values = self.values if self.features.all_genes else self.values[:, self.is_gene]
            return self.recognise(describe(values.data if sp.issparse(values) else values))
        starts = sorted({0, self.n_cells // 2, max(0, self.n_cells - _SAMPLE_CELLS)})
        parts = [self._read(start, min(start + _SAMPLE_CELLS, self.n_cells)).data for start in starts]
        return self.recognise(describe(np.concatenate(parts)))

    def recognise(self, found: Values) -> Values:
        """The transformation of the counts, recognised from some cells."""
        return recognise(found, self.sample(), int(self.is_gene.sum()))

    def sample(self) -> sp.csr_matrix:
        """Cells from the start, the middle and the end."""
        n = SAMPLE_CELLS // 3
        starts = sorted({0, max(0, (self.n_cells - n) // 2), max(0, self.n_cells - n)})
        bounds = [*starts[1:], self.n_cells]
        parts = [self._read(start, min(start + n, bound)) for start, bound in zip(starts, bounds, strict=True)]
        return sp.vstack(parts, format="csr")

    def n_expressing(self, columns: np.ndarray) -> np.ndarray:
        """(n_columns,) int: number of cells with a value above 0, among all cells in memory or a sample on disk."""
        values = self.values if self.in_memory else self.sample()
        return np.asarray((values[:, columns] > 0).sum(0)).ravel()


def read_matrix(adata: AnnData, layer: str | None = None) -> Matrix:
    """The matrix that a user names: X, a layer, or ``"raw"``.

    Raises
    ------
    MissingKeyError
        There is no such layer, or X is empty; the message lists the available ones.
    InputError
        The matrix holds no numbers: text, dates, complex or masked entries.
    """
    if layer is None or layer == "X":
        x = _x_of(adata)
        if x is None:
            raise MissingKeyError(f"adata.X is empty. Pass layer= with another matrix; available: {_layers(adata)}.")
        return Matrix(sliceable(x, "adata.X"), _in_memory(adata.var), "adata.X")
    if layer in adata.layers:
        name = f"adata.layers[{layer!r}]"
        return Matrix(sliceable(adata.layers[layer], name), _in_memory(adata.var), name)
    if layer == "raw" and adata.raw is not None:
        return Matrix(sliceable(adata.raw.X, "adata.raw.X"), _in_memory(adata.raw.var), "adata.raw.X")
    raise MissingKeyError(f"No layer {layer!r}; available: {_layers(adata)}.")


def matrices(adata: AnnData) -> list[str]:
    """The matrices that `read_matrix` can read, by the name it takes."""
    x, raw = ["X"] if _x_of(adata) is not None else [], ["raw"] if adata.raw is not None else []
    return [*x, *(name for name in adata.layers if name is not None), *raw]  # anndata 0.13 lists X as None


def gene_rows(adata: AnnData) -> AnnData:
    """The table without rows of `var` that are not human genes, with a message: the table itself, or a view."""
    features = read_features(adata.var)
    if features.note and features.is_gene.any():
        warn(features.note)
    return adata if features.all_genes or not features.is_gene.any() else adata[:, features.is_gene]


def require_features(matrix: Matrix) -> None:
    """Refuse a table whose rows are antibodies, guides, peaks or genes of other species only.

    Raises
    ------
    InputError
        No row is human gene expression, or there are several genomes and none is chosen.
    """
    if problem := matrix.features.problem(matrix.var_name):
        raise InputError(problem)


def _x_of(adata: AnnData) -> Any:
    """X, or None where there is none: in a file on disk, too, of which anndata itself raises."""
    try:
        return adata.X
    except KeyError:
        return None


def _in_memory(var: Any) -> pd.DataFrame:
    """The table of genes, which anndata.experimental.read_lazy leaves on disk."""
    return var if isinstance(var, pd.DataFrame) else var.to_memory()


def _layers(adata: AnnData) -> str:
    return ", ".join(map(repr, matrices(adata))) or "none"
