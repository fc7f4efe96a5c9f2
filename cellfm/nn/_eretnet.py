"""The backbone: ERetNet layers joined by DeepNorm (paper, Methods, "ERetNet")."""

import mindspore as ms
from mindspore import nn, ops

from cellfm.config import ModelConfig
from cellfm.nn._ablations import DecayRetention, FeedForward
from cellfm.nn._dropout import Dropout
from cellfm.nn._glu import SGLU
from cellfm.nn._layout import Layout, cls_of, is_gene, sum_by_cell, to_chunks
from cellfm.nn._norm import LayerNorm
from cellfm.nn._retention import GatedRetention


class ERetNetLayer(nn.Cell):
    """``y = LN(alpha x + MHA(x))``, ``x' = LN(alpha y + SGLU(y))`` with ``alpha = (2 L)^(1/4)``."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.alpha = (2 * config.n_layers) ** 0.25
        self.attention = GatedRetention(config) if config.retention == "linear" else DecayRetention(config)
        self.glu = SGLU(config) if config.feed_forward == "sglu" else FeedForward(config)
        self.norm1 = LayerNorm(config.d_model)
        self.norm2 = LayerNorm(config.d_model)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)

    def construct(self, x: ms.Tensor, key_mask: ms.Tensor, value_scale: ms.Tensor, layout: Layout) -> ms.Tensor:
        """New tokens for all, (c, s, d)."""
        return self.add(x, self.attention(x, key_mask, value_scale, layout))

    def cls_only(self, x: ms.Tensor, key_mask: ms.Tensor, value_scale: ms.Tensor, layout: Layout) -> ms.Tensor:
        """The new CLS token of each cell, (b, d): it reads all tokens `x`, but nothing else is computed."""
        cls = cls_of(x, layout).expand_dims(1)  # (b, 1, d)
        memory = self.attention.remember(x, key_mask, value_scale, layout)
        return self.add(cls, self.attention.read(cls, memory)).squeeze(1)

    def add(self, x: ms.Tensor, read: ms.Tensor) -> ms.Tensor:
        """Join tokens and what they read, both (r, m, d)."""
        y = self.norm1(self.alpha * x + self.dropout1(read))
        return self.norm2(self.alpha * y + self.dropout2(self.glu(y)))


class PreNormLayer(ERetNetLayer):
    """RetNet's layer: ``y = x + MHA(LN(x))``, ``x' = y + SGLU(LN(y))`` (the paper's ablation of DeepNorm)."""

    def construct(self, x: ms.Tensor, key_mask: ms.Tensor, value_scale: ms.Tensor, layout: Layout) -> ms.Tensor:
        y = x + self.dropout1(self.attention(self.norm1(x), key_mask, value_scale, layout))
        return y + self.dropout2(self.glu(self.norm2(y)))


class ERetNet(nn.Cell):
    """A stack of layers. Hidden genes are no keys in its first half, padding is none anywhere."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.n_blind = config.n_layers // 2
        layer = ERetNetLayer if config.norm == "deepnorm" else PreNormLayer
        self.layers = nn.CellList([layer(config, dropout * i / config.n_layers) for i in range(config.n_layers)])

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
