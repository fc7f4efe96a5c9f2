"""What attention compares: the queries and keys of one layer, from which any score follows.

Linear attention has no softmax map: the score from token i to token j is ``Q_i . K_j`` in each head, both not negative.
"""

import mindspore as ms
from mindspore import nn, ops

from cellfm.nn._eretnet import value_scale
from cellfm.nn._layout import cls_of
from cellfm.nn._network import CellFMNetwork


class QueriesAndKeys(nn.Cell):
    """Queries and keys of a layer, heads side by side; shares the network's weights."""

    def __init__(self, network: CellFMNetwork, layer: int) -> None:
        super().__init__(auto_prefix=False)
        self.embed = network.embed
        self.layers = network.backbone.layers[:layer]
        self.attention = network.backbone.layers[layer].attention

    def construct(
        self, gene_ids: ms.Tensor, values: ms.Tensor, mask: ms.Tensor, chunk_cell: ms.Tensor, cls_row: ms.Tensor
    ) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        """Queries of CLS, (b, d), queries and keys of all tokens, (c, s, d); arguments as for the network."""
        layout = (gene_ids, mask, chunk_cell, cls_row)
        scale, keys = value_scale(layout), mask.expand_dims(-1)
        x = self.embed(self.embed.genes(gene_ids), values, mask, layout)
        for layer in self.layers:
            x = layer(x, keys, scale, layout)
        query = ops.relu(self.attention.query(x))
        return cls_of(query, layout), query, ops.relu(self.attention.key(x))
