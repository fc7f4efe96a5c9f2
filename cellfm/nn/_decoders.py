"""Decoders: a value for each gene from its own token, and from the cell alone."""

import mindspore as ms
from mindspore import nn, ops

from cellfm.config import ModelConfig
from cellfm.nn._embed import LEAKY_SLOPE
from cellfm.nn._linear import Linear


class GeneDecoder(nn.Cell):
    """``W2 LeakyReLU(W1 token)``: (c, s, d) to (c, s)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.inner = Linear(config.d_model, config.d_model)
        self.output = Linear(config.d_model, 1)
        if config.zero_modelling:
            self.expressed = Linear(config.d_model, 1)

    def construct(self, tokens: ms.Tensor) -> ms.Tensor:
        return self.output(self.hidden(tokens)).squeeze(-1)

    def expressed_logit(self, tokens: ms.Tensor) -> ms.Tensor:
        """How sure it is that the gene is expressed at all, (c, s)."""
        return self.expressed(self.hidden(tokens)).squeeze(-1)

    def hidden(self, tokens: ms.Tensor) -> ms.Tensor:
        return ops.leaky_relu(self.inner(tokens), LEAKY_SLOPE)


class CellDecoder(nn.Cell):
    """``sigmoid(W E[g]) . cls``: what the cell's embedding alone says of each gene, (c, s)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.inner = Linear(config.d_model, config.d_model)
        if config.zero_modelling:
            self.expressed = Linear(config.d_model, config.d_model)

    def construct(self, genes: ms.Tensor, cls: ms.Tensor) -> ms.Tensor:
        """`genes` (c, s, d) are rows of the gene table, `cls` (c, d) the CLS token of the chunk's cell."""
        return ops.matmul(ops.sigmoid(self.inner(genes)), cls.expand_dims(-1)).squeeze(-1)

    def expressed_logit(self, genes: ms.Tensor, cls: ms.Tensor) -> ms.Tensor:
        """How sure the cell is to express each gene at all, (c, s)."""
        return ops.matmul(ops.sigmoid(self.expressed(genes)), cls.expand_dims(-1)).squeeze(-1)
