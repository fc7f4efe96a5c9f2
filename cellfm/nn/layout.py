"""The layout of a batch: cells cut into chunks of one length.

A cell of any number of genes becomes one or more chunks, so that batches have one shape whatever their cells, and
only the end of a cell's last chunk is padding. The chunks of a cell meet in one place only: the sum ``K^T V`` of
attention. A padded batch is the case of one chunk a cell.

Letters: `c` chunks, `s` tokens of a chunk, `b` cells, `d` width, `h` heads of `k`.
"""

from cellfm.engines import Array, Operations

Layout = tuple[Array, Array, Array, Array]
"""The tokens of a batch and their cells.

- gene_ids, (c, s) int32: rows of the gene table; 0 for CLS and padding, -1 and -2 for the two depth tokens.
- mask, (c, s) float32: 1 for tokens, 0 for padding.
- chunk_cell, (c,) int32: the cell of each chunk.
- cls_row, (b,) int32: position of each cell's CLS among the c * s tokens.
"""


def is_gene(xp: Operations, layout: Layout) -> Array:
    """(c, s) float32: 1 for genes."""
    return xp.float32(layout[0] > 0)


def sum_by_cell(xp: Operations, x: Array, layout: Layout) -> Array:
    """(c, ...) to (b, ...): the sum over each cell's chunks."""
    return xp.segment_sum(x, layout[2], layout[3])


def to_chunks(xp: Operations, x: Array, layout: Layout) -> Array:
    """(b, ...) to (c, ...): the values of a cell, at each of its chunks."""
    return xp.take(x, layout[2])


def cls_of(xp: Operations, x: Array, layout: Layout) -> Array:
    """(c, s, d) to (b, d): the CLS token of each cell."""
    return xp.take(x.reshape((-1, x.shape[-1])), layout[3])


def value_scale(xp: Operations, layout: Layout) -> Array:
    """One over the root of each cell's number of genes, at its chunks, (c, 1, 1)."""
    n_genes = sum_by_cell(xp, is_gene(xp, layout).sum(-1), layout)  # (b,)
    return to_chunks(xp, xp.rsqrt(xp.maximum(n_genes, 1.0)), layout).reshape((-1, 1, 1))
