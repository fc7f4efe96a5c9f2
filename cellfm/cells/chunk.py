"""Pack ragged tokens into arrays of one shape: cells are cut into chunks, with CLS first."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cellfm.cells.tokenize import TokenBatch

CHUNK = 64
"""Tokens of a chunk: short enough to waste little, long enough for fast products."""


@dataclass(frozen=True)
class Chunks:
    """Tokens of some cells, in `n_chunks` chunks of `length` tokens: the arrays that the network takes."""

    gene_ids: np.ndarray
    """(n_chunks, length) int32: 0 for CLS and padding, -1, -2 ... for the tokens between CLS and the genes."""
    values: np.ndarray
    """(n_chunks, length) float32."""
    mask: np.ndarray
    """(n_chunks, length) float32: 1 for tokens, 0 for padding."""
    chunk_cell: np.ndarray
    """(n_chunks,) int32: the cell of each chunk."""
    cls_row: np.ndarray
    """(n_slots,) int32: position of each cell's CLS among all tokens; 0 for slots without a cell."""
    token_row: np.ndarray
    """(n_genes,) int64: position of each gene among all tokens."""
    source: np.ndarray
    """(n_genes,) int64: the token of the ragged batch at this position."""

    def spread(self, values: np.ndarray, elsewhere: float) -> np.ndarray:
        """Values of the ragged batch's tokens in this layout, (n_chunks, length) float32."""
        flat = np.full(self.mask.size, elsewhere, np.float32)
        flat[self.token_row] = values[self.source]
        return flat.reshape(self.mask.shape)


def chunks_of(n_genes: np.ndarray, length: int = CHUNK, n_special: int = 1) -> np.ndarray:
    """Number of chunks for cells with `n_genes` genes and `n_special` other tokens (CLS)."""
    return -(-(n_genes + n_special) // length)


def chunk_cells(
    batch: TokenBatch,
    cells: np.ndarray,
    *,
    n_chunks: int | None = None,
    n_slots: int | None = None,
    length: int = CHUNK,
    specials: np.ndarray | None = None,
) -> Chunks:
    """Pack some `cells` into chunks.

    Parameters
    ----------
    n_chunks, n_slots
        Shape of the result; by default just as large as needed. Unused chunks belong to no cell, and their mask is 0.
    specials
        (len(cells), n) values of the tokens between CLS and the genes of each cell.
    """
    n_genes = batch.lengths[cells]
    n_special = 1 if specials is None else 1 + specials.shape[1]
    needed = chunks_of(n_genes, length, n_special)
    first = np.cumsum(needed) - needed  # first chunk of each cell
    n_chunks = int(needed.sum()) if n_chunks is None else n_chunks
    n_slots = len(cells) if n_slots is None else n_slots

    cls_row = np.zeros(n_slots, np.int32)
    cls_row[: len(cells)] = first * length
    chunk_cell = np.zeros(n_chunks, np.int32)
    chunk_cell[: int(needed.sum())] = np.repeat(np.arange(len(cells)), needed)

    # The genes of a cell follow its CLS without a gap, because its chunks do.
    ends = np.cumsum(n_genes)
    within = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - n_genes, n_genes)
    source = np.repeat(batch.indptr[cells], n_genes) + within
    token_row = np.repeat(first * length + n_special, n_genes) + within

    gene_ids = np.zeros(n_chunks * length, np.int32)
    values = np.zeros(n_chunks * length, np.float32)
    mask = np.zeros(n_chunks * length, np.float32)
    gene_ids[token_row] = batch.gene_ids[source]
    values[token_row] = batch.values[source]
    mask[token_row] = 1
    mask[first * length] = 1
    if specials is not None:
        for i, special in enumerate(specials.T, start=1):
            row = first * length + i
            gene_ids[row], mask[row], values[row] = -i, 1, special
    shape = (n_chunks, length)
    return Chunks(
        gene_ids.reshape(shape), values.reshape(shape), mask.reshape(shape), chunk_cell, cls_row, token_row, source
    )


def depth_values(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(n_cells, 2) values of the two depth tokens: log1p of thousands of counts before and after thinning."""
    return np.log1p(np.stack((before, after), 1) / 1000).astype(np.float32)


def fill_batches(
    n_genes: np.ndarray, *, n_chunks: int, n_slots: int, length: int = CHUNK, n_special: int = 1
) -> Iterator[np.ndarray]:
    """Split cells into batches that fill `n_chunks` chunks, at most `n_slots` cells each: the largest that fits first.

    Cells of one size keep their order. A cell must not need more than `n_chunks`.
    """
    needed = chunks_of(n_genes, length, n_special)
    sizes, counts = np.unique(-needed, return_counts=True)  # from the largest
    sizes, ends = -sizes, np.cumsum(counts)
    order = np.argsort(-needed, kind="stable")
    waiting = ends - counts  # the next cell of each size, as a place in `order`
    while (waiting < ends).any():
        batch: list[np.ndarray] = []
        free, slots = n_chunks, n_slots
        for i, size in enumerate(sizes):
            taken = min(free // size, slots, ends[i] - waiting[i])
            batch.append(order[waiting[i] : waiting[i] + taken])
            waiting[i] += taken
            free, slots = free - taken * size, slots - taken
        yield np.concatenate(batch)
