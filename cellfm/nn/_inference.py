"""Cell embeddings with less work: exact, but only CLS passes the last layer whole.

After the last layer nothing but CLS is asked for, and CLS reads the other tokens through their keys and values only:
there, queries, gates, output and SGLU are computed for one token a cell instead of for all.
"""

import mindspore as ms
from mindspore import nn

from cellfm.nn._eretnet import value_scale
from cellfm.nn._network import CellFMNetwork


class CellEncoder(nn.Cell):
    """The CLS output of a network, (b, d), with all values visible; shares the network's weights."""

    def __init__(self, network: CellFMNetwork) -> None:
        super().__init__(auto_prefix=False)
        self.embed = network.embed
        self.layers = network.backbone.layers

    def construct(
        self, gene_ids: ms.Tensor, values: ms.Tensor, mask: ms.Tensor, chunk_cell: ms.Tensor, cls_row: ms.Tensor
    ) -> ms.Tensor:
        """Arguments as for the network."""
        layout = (gene_ids, mask, chunk_cell, cls_row)
        scale, keys = value_scale(layout), mask.expand_dims(-1)
        x = self.embed(self.embed.genes(gene_ids), values, mask, layout)
        for layer in self.layers[:-1]:
            x = layer(x, keys, scale, layout)
        return self.layers[-1].cls_only(x, keys, scale, layout)
