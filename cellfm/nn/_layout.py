"""How the tokens of a batch lie: cells cut into chunks of one length.

A cell of any number of genes becomes one or more chunks, so that batches have one shape whatever their cells, and
only the end of a cell's last chunk is padding. The chunks of a cell meet in one place only: the sum ``K^T V`` of
attention. A padded batch is the case of one chunk a cell.

Letters: `c` chunks, `s` tokens of a chunk, `b` cells, `d` width, `h` heads of `k`.
"""

import mindspore as ms
from mindspore import nn, ops

Layout = tuple[ms.Tensor, ms.Tensor, ms.Tensor, ms.Tensor]
"""Which tokens there are, and whose (a plain tuple: MindSpore's compiler does not see through named ones).

- gene_ids, (c, s) int32: rows of the gene table; 0 for CLS and padding, -1 and -2 for the two depth tokens.
- mask, (c, s) float32: 1 for tokens, 0 for padding.
- chunk_cell, (c,) int32: the cell of each chunk.
- cls_row, (b,) int32: where each cell's CLS stands among the c * s tokens.
"""


def is_gene(layout: Layout) -> ms.Tensor:
    """(c, s) float32: 1 for genes."""
    gene_ids, _, _, _ = layout
    return (gene_ids > 0).astype(ms.float32)


class SumByCell(nn.Cell):
    """The sum over each cell's chunks. Its gradient is a gather; MindSpore's own takes masks as large as `x` for it."""

    def construct(self, x: ms.Tensor, chunk_cell: ms.Tensor, cls_row: ms.Tensor) -> ms.Tensor:
        return ops.unsorted_segment_sum(x, chunk_cell, cls_row.shape[0])

    def bprop(self, x, chunk_cell, cls_row, out, dout) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        return ops.gather(dout, chunk_cell, 0), ops.zeros_like(chunk_cell), ops.zeros_like(cls_row)


SUM_BY_CELL = SumByCell()


def sum_by_cell(x: ms.Tensor, layout: Layout) -> ms.Tensor:
    """(c, ...) to (b, ...): the sum over each cell's chunks."""
    _, _, chunk_cell, cls_row = layout
    return SUM_BY_CELL(x, chunk_cell, cls_row)


def to_chunks(x: ms.Tensor, layout: Layout) -> ms.Tensor:
    """(b, ...) to (c, ...): what belongs to a cell, at each of its chunks."""
    _, _, chunk_cell, _ = layout
    return ops.gather(x, chunk_cell, 0)


def cls_of(x: ms.Tensor, layout: Layout) -> ms.Tensor:
    """(c, s, d) to (b, d): the CLS token of each cell."""
    _, _, _, cls_row = layout
    return ops.gather(x.reshape((-1, x.shape[-1])), cls_row, 0)
