"""Tokens: a gene's identity plus its expression value (paper, Methods, "Embedding")."""

import mindspore as ms
from mindspore import nn, ops
from mindspore.common.initializer import initializer

from cellfm.config import ModelConfig
from cellfm.nn._layout import Layout, is_gene
from cellfm.nn._linear import Linear

LEAKY_SLOPE = 0.2


class ValueEmbedding(nn.Cell):
    """A scalar as a soft choice among the rows of a table: ``Wt softmax(W3 v + a v)``, ``v = LeakyReLU(W1 x)``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.expand = Linear(1, config.d_value)
        self.mix = Linear(config.d_value, config.d_value)
        self.skip = ms.Parameter(initializer("zeros", (1, 1), ms.float32))
        self.table = Linear(config.d_value, config.d_model)

    def construct(self, values: ms.Tensor, asked: ms.Tensor) -> ms.Tensor:
        """(c, s) to (c, s, d): zero where not `asked` (c, s)."""
        expanded = ops.leaky_relu(self.expand(values.expand_dims(-1)), LEAKY_SLOPE)  # (c, s, w)
        choice = ops.softmax(self.mix(expanded) + self.skip * expanded, -1)  # (c, s, w)
        return self.table(choice * asked.expand_dims(-1))


class TokenEmbedding(nn.Cell):
    """Gene table, value embedding and CLS. Row 0 of the gene table is padding and stays zero."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.d_model
        self.gene = ms.Parameter(initializer("zeros", (config.n_gene_rows, d), ms.float32))
        self.value = ValueEmbedding(config)
        self.hidden = ms.Parameter(initializer("zeros", (1, 1, d), ms.float32))
        self.zero = ms.Parameter(initializer("zeros", (1, 1, d), ms.float32))  # read by zero modelling only
        self.cls = ms.Parameter(initializer("zeros", (1, 1, d), ms.float32))
        self.zero_modelling = config.zero_modelling
        self.depth_tokens = config.depth_tokens
        if config.depth_tokens:
            self.depth = ms.Parameter(initializer("zeros", (2, d), ms.float32))
            self.depth_value = ValueEmbedding(config)

    def construct(self, genes: ms.Tensor, values: ms.Tensor, visible: ms.Tensor, layout: Layout) -> ms.Tensor:
        """Rows of the gene table (c, s, d) and values (c, s) to tokens (c, s, d).

        Hidden values (`visible` 0) are replaced by one learned vector.
        """
        gene_ids, mask, _, _ = layout
        gene = is_gene(layout)  # (c, s)
        cls, hidden, shown = mask * (gene_ids == 0), gene * (1 - visible), gene * visible
        zero = shown * (values == 0) if self.zero_modelling else 0 * shown
        # Learned vectors are placed by one product, whose gradient is one, too: sums over all tokens are slow.
        places = ops.stack((cls, hidden, zero), -1)  # (c, s, 3)
        vectors = ops.concat((self.cls, self.hidden, self.zero), 1)[0]  # (3, d)
        placed = ops.matmul(places.reshape((-1, 3)), vectors).reshape(genes.shape)
        tokens = genes * gene.expand_dims(-1) + self.value(values, shown - zero) + placed
        return tokens + self.depths(values, gene_ids) if self.depth_tokens else tokens

    def genes(self, gene_ids: ms.Tensor) -> ms.Tensor:
        """Rows of the gene table, (c, s, d)."""
        return ops.gather(self.gene, ops.maximum(gene_ids, 0), 0)

    def depths(self, values: ms.Tensor, gene_ids: ms.Tensor) -> ms.Tensor:
        """The tokens of depth before and after thinning, (c, s, d), zero elsewhere."""
        is_depth = (gene_ids < 0).astype(ms.float32)  # (c, s)
        which = ops.gather(self.depth, ops.maximum(-1 - gene_ids, 0), 0)
        return which * is_depth.expand_dims(-1) + self.depth_value(values, is_depth)
