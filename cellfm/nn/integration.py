"""Losses for integration without labels: an adversary, masked values, and terms that preserve the cells.

The paper has no adversary, because its framework lacked gradient reversal (Zeng 2025, on batch effects). Objectives and
the elastic term are those of scGPT's integration (Cui 2024, Methods); the gate and the structure term are our own.
"""

from dataclasses import dataclass

from cellfm.config import ModelConfig, TrainConfig
from cellfm.engines import Array, Operations, Weights
from cellfm.nn.heads import mlp_head
from cellfm.nn.network import embed_cells
from cellfm.nn.objectives import Loss, cosines, log_probability, pretraining

ELASTIC_CENTRE = 0.8
"""Cosine above which two cells are pulled together, and below which they are pushed apart."""
KERNEL_WIDTHS = (0.25, 0.5, 1.0, 2.0)
"""Widths of the kernels that compare distributions of batches, as distances between embeddings of length 1."""
MAX_GATE = 1e6
"""Maximum factor by which the gate multiplies a gradient."""


@dataclass(frozen=True)
class IntegrationWeights:
    """Weights of the terms of the loss; 0 turns a term off."""

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


def integration(
    config: ModelConfig,
    train: TrainConfig,
    weights: IntegrationWeights,
    *,
    n_batches: int,
    n_masked: int,
    mean_square: float,
) -> Loss:
    """The loss of a micro-batch and its terms (5,): discriminator, structure, masked, elastic, discrepancy.

    The arrays are those of `BatchedCells`, in its order. The discriminator, ``head`` of the weights, stands behind a
    gradient reversal: one loss, which it learns to lower and the network to raise.
    How strongly each cell is pushed is gated by how well the discriminator knows its batch: the reversed gradient
    becomes that of ``-log(1 - p)`` in place of ``log p``. So cells are moved while they are recognised and left alone
    once they are not, where the plain reversal does the opposite and drives batches past each other (the non-saturating
    loss of Goodfellow 2014, from the other side).

    Parameters
    ----------
    n_batches
        Number of batches.
    n_masked
        Number of chunks whose masked values are predicted: the first of a micro-batch, to save work.
    mean_square
        Mean square of the values, by which the masked loss is divided.
    """
    masked_loss = pretraining(config, train)
    inv_square = 1 / ((train.gene_weight + train.cell_weight) * mean_square)
    adversary_weight, structure_weight, masked_weight = weights.adversary, weights.structure, weights.masked
    elastic_weight, discrepancy_weight = weights.elastic, weights.discrepancy

    def loss(xp: Operations, p: Weights, arrays: tuple[Array, ...], keys: Array | None) -> tuple[Array, Array]:
        (
            gene_ids, values, visible, mask, chunk_cell, cls_row, target, partner, label, inv_targets, share,
            start, weight, ramp,
        ) = arrays  # fmt: skip
        cell = embed_cells(xp, config, p, values, (gene_ids, mask, chunk_cell, cls_row))  # (b, d)
        zero = xp.zeros_like(share)
        adversary, structure, masked, elastic, discrepancy = zero, zero, zero, zero, zero
        if adversary_weight:
            head, mean, inv_scale = p["head"], p["fixed"]["mean"], p["fixed"]["inv_scale"]
            logits = mlp_head(xp, head, cell, mean, inv_scale)
            known = xp.exp(xp.stop_gradient(log_probability(xp, logits, label)))
            gate = xp.minimum(known / (1 - known + 1e-6), MAX_GATE)[:, None]  # (b, 1)
            hidden = xp.reverse_gradient(cell, adversary_weight * ramp * gate)
            logits = mlp_head(xp, head, hidden, mean, inv_scale)
            adversary = -(log_probability(xp, logits, label) * weight).sum()
        if structure_weight:
            structure = structure_loss(xp, cell, start, label) * share
        if masked_weight:
            n = n_masked
            last = n * gene_ids.shape[1] - 1  # CLS of the other cells: any token, because nothing is asked of them
            some = (
                gene_ids[:n], values[:n], visible[:n], mask[:n], chunk_cell[:n], xp.minimum(cls_row, last),
                target[:n], partner, label, inv_targets, share,
            )  # fmt: skip
            masked = masked_loss(xp, p, some, keys)[0] * inv_square
        if elastic_weight:
            elastic = elastic_loss(xp, cell, label) * share
        if discrepancy_weight:
            discrepancy = discrepancy_loss(xp, cell, label, n_batches) * share
        total = adversary + structure_weight * structure + masked_weight * masked + elastic_weight * elastic
        total = total + discrepancy_weight * ramp * discrepancy
        return total, xp.stack((adversary, structure, masked, elastic, discrepancy), 0)

    return loss


def structure_loss(xp: Operations, cell: Array, start: Array, label: Array) -> Array:
    """Mean squared change of the cosines between the cells of one batch; `cell` and `start` (b, d)."""
    pairs = different_cells(xp, label) * xp.float32(label[None] == label[:, None])
    change = cosines(xp, cell) - cosines(xp, start)
    return (change * change * pairs).sum() / xp.maximum(pairs.sum(), 1.0)


def elastic_loss(xp: Operations, cell: Array, label: Array) -> Array:
    """``mean(1 - (relu(cos) - 0.8)^2)`` over pairs (Cui 2024, "elastic cell similarity").

    Lowest if cosines are far from 0.8: pairs above it are pulled together, pairs below are pushed apart, down to 0.
    """
    pairs = different_cells(xp, label)
    from_centre = xp.relu(cosines(xp, cell)) - ELASTIC_CENTRE
    return ((1 - from_centre * from_centre) * pairs).sum() / xp.maximum(pairs.sum(), 1.0)


def discrepancy_loss(xp: Operations, cell: Array, label: Array, n_batches: int) -> Array:
    """Squared maximum mean discrepancy between each batch and all cells, by Gaussian kernels (Gretton 2012).

    The mean over batches, weighted by their numbers of cells; 0 if all batches have the same distribution.
    """
    is_cell = xp.float32(label >= 0)[:, None]  # (b, 1)
    in_batch = xp.float32(label[:, None] == xp.arange(n_batches)[None])  # (b, n_batches)
    sizes, n = in_batch.sum(0, keepdims=True), xp.maximum(is_cell.sum(), 1.0)
    contrast = in_batch / xp.maximum(sizes, 1.0) - is_cell / n
    square = xp.maximum(2 - 2 * cosines(xp, cell), 0.0)
    total = xp.zeros_like(n)
    for width in KERNEL_WIDTHS:
        kernel = xp.exp(square * (-0.5 / width**2))
        total = total + ((contrast * xp.matmul(kernel, contrast)) * sizes).sum() / n
    return total / len(KERNEL_WIDTHS)


def different_cells(xp: Operations, label: Array) -> Array:
    """(b, b) float32: 1 for two different cells; `label` (b,) is -2 where there is none."""
    is_cell = xp.float32(label > -2)
    return (1 - xp.eye(label.shape[0])) * is_cell[None] * is_cell[:, None]
