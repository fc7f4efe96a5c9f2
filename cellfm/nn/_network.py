"""CellFM from tokens to embeddings and predicted expression: reads top-down, the one definition of the network."""

from typing import NamedTuple

import mindspore as ms
from mindspore import nn, ops

from cellfm.config import ModelConfig
from cellfm.nn._decoders import CellDecoder, GeneDecoder
from cellfm.nn._embed import TokenEmbedding
from cellfm.nn._eretnet import ERetNet
from cellfm.nn._layout import cls_of, to_chunks


class Outputs(NamedTuple):
    """What the network says of a batch of cells."""

    cell: ms.Tensor
    """(b, d): the CLS token."""
    tokens: ms.Tensor
    """(c, s, d): all tokens in their context; meaningless at padding."""
    gene_wise: ms.Tensor
    """(c, s): expression read from each gene's token."""
    cell_wise: ms.Tensor
    """(c, s): expression read from the cell's embedding."""


class CellFMNetwork(nn.Cell):
    """The CellFM network.

    Parameters
    ----------
    config
        Shape of the network.
    dropout
        Rate at the far end of the stack; layer `i` of `L` drops ``dropout * i / L`` of what it adds, in training only.
    """

    def __init__(self, config: ModelConfig, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.embed = TokenEmbedding(config)
        self.backbone = ERetNet(config, dropout)
        self.gene_decoder = GeneDecoder(config)
        self.cell_decoder = CellDecoder(config)

    def construct(
        self,
        gene_ids: ms.Tensor,
        values: ms.Tensor,
        visible: ms.Tensor,
        mask: ms.Tensor,
        chunk_cell: ms.Tensor,
        cls_row: ms.Tensor,
    ) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor, ms.Tensor]:
        """Run the network.

        Parameters
        ----------
        values
            (c, s) float32: normalised expression; of no meaning at CLS and padding.
        visible
            (c, s) float32: 1 where the value is shown, 0 where it is hidden. CLS is visible.
        gene_ids, mask, chunk_cell, cls_row
            The parts of `Layout`.

        Returns
        -------
        The fields of `Outputs`, in its order.
        """
        layout = (gene_ids, mask, chunk_cell, cls_row)
        genes = self.embed.genes(gene_ids)  # once: each gradient of the table is as large as the table
        tokens = self.backbone(self.embed(genes, values, visible, layout), visible, layout)
        cell = cls_of(tokens, layout)
        cell_wise = self.cell_decoder(genes, to_chunks(cell, layout))
        return cell, tokens, self.gene_decoder(tokens), cell_wise

    def expressed_logits(
        self, gene_ids: ms.Tensor, tokens: ms.Tensor, cell: ms.Tensor, chunk_cell: ms.Tensor
    ) -> tuple[ms.Tensor, ms.Tensor]:
        """Whether genes are expressed at all, (c, s), read from their tokens and from the cell (zero modelling)."""
        genes, cls = self.embed.genes(gene_ids), ops.gather(cell, chunk_cell, 0)
        return self.gene_decoder.expressed_logit(tokens), self.cell_decoder.expressed_logit(genes, cls)
