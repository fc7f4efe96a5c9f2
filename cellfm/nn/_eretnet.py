"""The backbone: ERetNet layers joined by DeepNorm (paper, Methods, "ERetNet")."""

import mindspore as ms
from mindspore import nn, ops

from cellfm.config import ModelConfig
from cellfm.nn._glu import SGLU
from cellfm.nn._layout import Layout, is_gene, sum_by_cell, to_chunks
from cellfm.nn._norm import layer_norm
from cellfm.nn._retention import GatedRetention


class ERetNetLayer(nn.Cell):
    """``y = LN(alpha x + MHA(x))``, ``x' = LN(alpha y + SGLU(y))`` with ``alpha = (2 L)^(1/4)``."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.alpha = (2 * config.n_layers) ** 0.25
        self.attention = GatedRetention(config)
        self.glu = SGLU(config)
        self.norm1 = layer_norm(config.d_model)
        self.norm2 = layer_norm(config.d_model)
        self.dropout = nn.Dropout(p=dropout)

    def construct(self, x: ms.Tensor, key_mask: ms.Tensor, value_scale: ms.Tensor, layout: Layout) -> ms.Tensor:
        """New tokens for all, (c, s, d)."""
        memory = self.attention.remember(x, key_mask, value_scale, layout)
        return self.update(x, to_chunks(memory, layout))

    def update(self, readers: ms.Tensor, memory: ms.Tensor) -> ms.Tensor:
        """New tokens for `readers` (r, m, d), which read the `memory` (r, h, k, k) of their cell."""
        y = self.norm1(self.alpha * readers + self.dropout(self.attention.read(readers, memory)))
        return self.norm2(self.alpha * y + self.dropout(self.glu(y)))


class ERetNet(nn.Cell):
    """A stack of layers. Hidden genes are no keys in its first half, padding is none anywhere."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.n_blind = config.n_layers // 2
        self.layers = nn.CellList([ERetNetLayer(config, dropout * i / config.n_layers) for i in range(config.n_layers)])

    def construct(self, x: ms.Tensor, visible: ms.Tensor, layout: Layout) -> ms.Tensor:
        scale = value_scale(layout)
        _, mask, _, _ = layout
        tokens = mask.expand_dims(-1)  # (c, s, 1)
        shown = tokens * visible.expand_dims(-1)
        for i, layer in enumerate(self.layers):
            x = layer(x, shown if i < self.n_blind else tokens, scale, layout)
        return x


def value_scale(layout: Layout) -> ms.Tensor:
    """One over the root of each cell's number of genes, at its chunks, (c, 1, 1)."""
    n_genes = sum_by_cell(is_gene(layout).sum(-1), layout)  # (b,)
    return to_chunks(ops.rsqrt(ops.maximum(n_genes, 1.0)), layout).reshape((-1, 1, 1))
