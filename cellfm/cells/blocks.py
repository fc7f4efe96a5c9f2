"""Rows of a matrix in any storage: NumPy, SciPy, dask, or a dataset on disk."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from cellfm.cells.numbers import as_numbers, require_numeric


def sliceable(values: Any, name: str) -> Any:
    """The matrix in a form whose rows can be read cheaply: column-wise sparse matrices in memory are converted once."""
    if hasattr(values, "dask"):
        return DaskRows(values, name)
    if sp.issparse(values):
        return sp.csr_matrix(as_numbers(values, name))
    if isinstance(values, np.ndarray):
        return as_numbers(values, name)
    require_numeric(np.dtype(values.dtype), name)
    return values


def to_csr(block: Any, name: str) -> sp.csr_matrix:
    """Some rows as CSR, without duplicate entries."""
    if not sp.issparse(block):
        block = as_numbers(np.asanyarray(block), name)
        block = block.astype(np.float32) if block.dtype == np.float16 else block
    matrix = sp.csr_matrix(block)
    matrix.sum_duplicates()
    return matrix


class Block:
    """Some rows of a matrix, which keep the numbers that they have in all of it."""

    def __init__(self, rows: sp.csr_matrix, first: int, shape: tuple[int, int]) -> None:
        self.rows, self.first, self.shape = rows, first, shape

    def __getitem__(self, rows: slice) -> sp.csr_matrix:
        return self.rows[rows.start - self.first : rows.stop - self.first]


class DaskRows:
    """Rows of a dask array. Their chunk is cached, because the next rows are mostly in it too."""

    def __init__(self, values: Any, name: str) -> None:
        self.shape, self.dtype, self.name = values.shape, values.dtype, name
        self.array = values
        self._chunks = values.blocks
        self._ends = np.cumsum(values.chunks[0])
        self._kept: tuple[int, sp.csr_matrix] | None = None

    def __getitem__(self, rows: slice) -> sp.csr_matrix:
        parts = []
        first, last = np.searchsorted(self._ends, [rows.start, max(rows.start, rows.stop - 1)], side="right")
        for i in range(first, last + 1):
            chunk = self._chunk(i)
            begin = self._ends[i] - chunk.shape[0]
            parts.append(chunk[max(rows.start - begin, 0) : rows.stop - begin])
        return sp.vstack(parts, format="csr")

    def delayed(self, rows: slice) -> list[list[Any]]:
        """The same rows as what dask computes where the data are: a grid of chunks, for `stacked`."""
        return self.array[rows].to_delayed(optimize_graph=False).tolist()

    def _chunk(self, i: int) -> sp.csr_matrix:
        kept = self._kept
        if kept is None or kept[0] != i:
            self._kept = kept = (i, to_csr(self._chunks[i].compute(), self.name))
        return kept[1]


def stacked(grid: Sequence[Sequence[Any]], name: str) -> sp.csr_matrix:
    """The rows of a grid of chunks as CSR."""
    rows = [[to_csr(chunk, name) for chunk in row] for row in grid]
    return sp.vstack([row[0] if len(row) == 1 else sp.hstack(row) for row in rows], format="csr")
