"""Fine-tuning without labels that brings batches together: an adversary, masked values, and what keeps cells apart.

The paper has no adversary, because its framework lacked gradient reversal (Zeng 2025, on batch effects). Objectives and
the elastic term are those of scGPT's integration (Cui 2024, Methods); the gate and the structure term are our own.
"""

from dataclasses import dataclass

import mindspore as ms
from mindspore import nn, ops

from cellfm.config import ModelConfig, TrainConfig
from cellfm.nn import CellEncoder, CellFMNetwork, GradientReversal, MLPHead
from cellfm.train._objective import PretrainObjective

ELASTIC_CENTRE = 0.8
"""Cosine above which two cells are drawn together, and below which they are pushed apart."""
KERNEL_WIDTHS = (0.25, 0.5, 1.0, 2.0)
"""Widths of the kernels by which distributions of batches are compared, as distances of embeddings of length 1."""
MAX_GATE = 1e6
"""Most that the gate may multiply a gradient with, which is as small as this is large."""


@dataclass(frozen=True)
class IntegrationWeights:
    """What the terms of the loss count; 0 leaves one out."""

    adversary: float
    """How strongly the network hides the batch from the discriminator."""
    structure: float
    """Squared change of the cosines between cells of one batch."""
    masked: float
    """Masked values, relative to their mean square."""
    elastic: float
    """Elastic similarity of all pairs of cells."""
    discrepancy: float
    """Squared maximum mean discrepancy of each batch from all cells."""


class WholeEncoder(nn.Cell):
    """CLS of networks that have no shorter way to it than `CellEncoder`'s (the ablations)."""

    def __init__(self, network: CellFMNetwork) -> None:
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, gene_ids, values, mask, chunk_cell, cls_row) -> ms.Tensor:
        return self.network(gene_ids, values, mask, mask, chunk_cell, cls_row)[0]


class IntegrationObjective(nn.Cell):
    """The loss of a micro-batch and its terms; the arrays are those of `BatchedCells`, in its order.

    The discriminator stands behind a gradient reversal: one loss, which it learns to lower and the network to raise.
    How strongly each cell is pushed is gated by how well the discriminator knows its batch: the reversed gradient
    becomes that of ``-log(1 - p)`` in place of ``log p``. So cells are moved while they are recognised and left alone
    once they are not, where the plain reversal does the opposite and drives batches past each other (the non-saturating
    loss of Goodfellow 2014, from the other side).

    Parameters
    ----------
    discriminator
        Logits of batches from CLS.
    n_batches
        How many there are.
    n_masked
        Chunks whose masked values are asked for: the first of a micro-batch, to save work.
    mean_square
        Mean square of the values, to which the masked loss is set in relation.
    """

    def __init__(
        self,
        network: CellFMNetwork,
        discriminator: MLPHead,
        model: ModelConfig,
        config: TrainConfig,
        weights: IntegrationWeights,
        *,
        n_batches: int,
        n_masked: int,
        mean_square: float,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.encoder = CellEncoder(network) if model.is_published_form else WholeEncoder(network)
        self.pretraining = PretrainObjective(network, config)
        self.reversal = GradientReversal()
        self.discriminator = discriminator
        self.adversary, self.structure = weights.adversary, weights.structure
        self.masked, self.elastic = weights.masked, weights.elastic
        self.discrepancy = weights.discrepancy
        self.n_batches, self.n_masked = n_batches, n_masked
        self.one_by_square = 1 / ((config.gene_weight + config.cell_weight) * mean_square)

    def construct(
        self, gene_ids, values, visible, mask, chunk_cell, cls_row, target, partner, kind, one_by_targets, share,
        start, weight, rise,
    ) -> tuple[ms.Tensor, ms.Tensor]:  # fmt: skip
        """The weighted loss, and its terms (5,): discriminator, structure, masked, elastic, discrepancy."""
        cell = self.encoder(gene_ids, values, mask, chunk_cell, cls_row)  # (b, d): all values are visible
        apart = structure = masked = elastic = discrepancy = ops.zeros_like(share)
        if self.adversary:
            known = ops.exp(ops.stop_gradient(own_log_p(self.discriminator(cell), kind)))
            gate = ops.minimum(known / (1 - known + 1e-6), MAX_GATE).expand_dims(-1)  # (b, 1)
            logits = self.discriminator(self.reversal(cell, self.adversary * rise * gate))
            apart = -(own_log_p(logits, kind) * weight).sum()
        if self.structure:
            structure = structure_loss(cell, start, kind) * share
        if self.masked:
            n = self.n_masked
            last = n * gene_ids.shape[1] - 1  # CLS of cells beyond: any token will do, nothing of theirs is asked
            masked, _ = self.pretraining(
                gene_ids[:n], values[:n], visible[:n], mask[:n], chunk_cell[:n], ops.minimum(cls_row, last),
                target[:n], partner, kind, one_by_targets, share,
            )  # fmt: skip
            masked = masked * self.one_by_square
        if self.elastic:
            elastic = elastic_loss(cell, kind) * share
        if self.discrepancy:
            discrepancy = discrepancy_loss(cell, kind, self.n_batches) * share
        loss = apart + self.structure * structure + self.masked * masked + self.elastic * elastic
        loss = loss + self.discrepancy * rise * discrepancy
        return loss, ops.stack((apart, structure, masked, elastic, discrepancy))


def own_log_p(logits: ms.Tensor, kind: ms.Tensor) -> ms.Tensor:
    """``log p(kind)`` of each cell, (b,); of no meaning where `kind` is negative."""
    own = ops.gather_elements(logits, 1, ops.maximum(kind, 0).expand_dims(-1)).squeeze(-1)
    return own - ops.logsumexp(logits, 1)


def structure_loss(cell: ms.Tensor, start: ms.Tensor, kind: ms.Tensor) -> ms.Tensor:
    """Mean squared change of the cosines between the cells of one batch; `cell` and `start` (b, d)."""
    pairs = different_cells(kind) * (kind.expand_dims(0) == kind.expand_dims(1)).astype(ms.float32)
    change = cosines(cell) - cosines(start)
    return (change * change * pairs).sum() / ops.maximum(pairs.sum(), 1.0)


def elastic_loss(cell: ms.Tensor, kind: ms.Tensor) -> ms.Tensor:
    """``mean(1 - (relu(cos) - 0.8)^2)`` over pairs (Cui 2024, "elastic cell similarity").

    Least where cosines are far from 0.8: pairs above it are drawn together, pairs below pushed apart, down to 0.
    """
    pairs = different_cells(kind)
    from_centre = ops.relu(cosines(cell)) - ELASTIC_CENTRE
    return ((1 - from_centre * from_centre) * pairs).sum() / ops.maximum(pairs.sum(), 1.0)


def discrepancy_loss(cell: ms.Tensor, kind: ms.Tensor, n_batches: int) -> ms.Tensor:
    """Squared maximum mean discrepancy between each batch and all cells, by Gaussian kernels (Gretton 2012).

    The mean over batches, by their number of cells. 0 where all batches are spread alike.
    """
    there = (kind >= 0).astype(ms.float32).expand_dims(-1)  # (b, 1)
    own = (kind.expand_dims(-1) == ops.arange(n_batches).expand_dims(0)).astype(ms.float32)  # (b, n_batches)
    sizes, n = own.sum(0, keepdims=True), ops.maximum(there.sum(), 1.0)
    contrast = own / ops.maximum(sizes, 1.0) - there / n
    square = ops.maximum(2 - 2 * cosines(cell), 0.0)
    found = ops.zeros_like(n)
    for width in KERNEL_WIDTHS:
        kernel = ops.exp(square * (-0.5 / width**2))
        found = found + ((contrast * ops.matmul(kernel, contrast)) * sizes).sum() / n
    return found / len(KERNEL_WIDTHS)


def cosines(cell: ms.Tensor) -> ms.Tensor:
    """(b, d) to (b, b)."""
    unit = cell * ops.rsqrt((cell * cell).sum(-1, keepdims=True) + 1e-12)
    return ops.matmul(unit, unit.T)


def different_cells(kind: ms.Tensor) -> ms.Tensor:
    """(b, b) float32: 1 for two different cells; `kind` (b,) is -2 where there is none."""
    n = kind.shape[0]
    there = (kind > -2).astype(ms.float32)
    return (1 - ops.eye(n, n, ms.float32)) * there.expand_dims(0) * there.expand_dims(1)
