"""Gated multi-head attention in its linear form (paper, Methods, "Gated multi-head attention")."""

import mindspore as ms
from mindspore import nn, ops

from cellfm.config import ModelConfig
from cellfm.nn._layout import Layout, sum_by_cell, to_chunks
from cellfm.nn._linear import Linear
from cellfm.nn._norm import RMSNorm


class GatedRetention(nn.Cell):
    """``rms(Q (K^T V)) * U`` for each head: linear in the number of tokens, because ``K^T V`` comes first."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.d_model
        self.n_heads = config.n_heads
        self.d_head = config.d_head
        self.scale = config.d_head**-0.5
        self.query = Linear(d, d)
        self.key = Linear(d, d)
        self.value = Linear(d, d)
        self.gate = Linear(d, d)
        self.output = Linear(d, d)
        self.norm = RMSNorm()
        self.inner = ops.BatchMatMul(transpose_a=True)  # these two do without copies of what they transpose
        self.outer = ops.BatchMatMul()

    def construct(self, x: ms.Tensor, key_mask: ms.Tensor, value_scale: ms.Tensor, layout: Layout) -> ms.Tensor:
        """What all tokens `x` (c, s, d) read from those of their cell, (c, s, d); arguments as for `remember`."""
        memory = self.remember(x, key_mask, value_scale, layout)
        return self.read(x, to_chunks(memory, layout))

    def remember(self, x: ms.Tensor, key_mask: ms.Tensor, value_scale: ms.Tensor, layout: Layout) -> ms.Tensor:
        """``K^T V`` of each cell, (b, h, k, k), from its tokens `x`, (c, s, d).

        `key_mask` (c, s, 1) is 1 where a token may be read. `value_scale` (c, 1, 1), one over the root of the cell's
        number of genes, cancels in the norm like the scales of Q and K; they only keep the sums small. All
        three scale ``K^T V``, which has fewer elements than Q, K and V.
        """
        k = self.split_heads(ops.relu(self.key(x)) * key_mask)  # (c, h, s, k)
        v = self.split_heads(self.value(x))  # (c, h, s, k)
        scale = (value_scale * self.scale**2).expand_dims(-1)  # (c, 1, 1, 1)
        return sum_by_cell(self.inner(k, v) * scale, layout)

    def read(self, readers: ms.Tensor, memory: ms.Tensor) -> ms.Tensor:
        """What `readers` (r, m, d) find in the `memory` (r, h, k, k) of their cell, (r, m, d)."""
        q = self.split_heads(ops.relu(self.query(readers)))  # (r, h, m, k)
        found = self.norm(self.outer(q, memory))  # (r, h, m, k)
        return self.output(self.join_heads(found) * ops.silu(self.gate(readers)))

    def split_heads(self, x: ms.Tensor) -> ms.Tensor:
        c, s, _ = x.shape
        return x.reshape((c, s, self.n_heads, self.d_head)).swapaxes(1, 2)  # (c, h, s, k)

    def join_heads(self, x: ms.Tensor) -> ms.Tensor:
        c, _, s, _ = x.shape
        return x.swapaxes(1, 2).reshape((c, s, self.n_heads * self.d_head))  # (c, s, d)
