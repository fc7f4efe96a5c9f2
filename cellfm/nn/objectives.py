"""Losses of pretraining: masked values, and the optional terms (paper, Methods, "Loss").

An objective is a function ``(xp, weights, arrays, keys)`` of a micro-batch to its loss and its terms, where the losses
of all micro-batches add up to that of the batch; `keys` are those of dropout, None in validation. Sums are over the
micro-batch and divided by the targets of the whole batch, so that accumulated gradients are those of the batch taken at
once.
"""

from collections.abc import Callable

from cellfm.config import ModelConfig, TrainConfig
from cellfm.engines import Array, Operations, Weights
from cellfm.nn.decoders import expressed_logits
from cellfm.nn.embedding import gene_rows
from cellfm.nn.eretnet import dropout_plan
from cellfm.nn.layout import to_chunks
from cellfm.nn.network import network

Loss = Callable[[Operations, Weights, tuple[Array, ...], Array | None], tuple[Array, Array]]

FAR = -1e9  # a logit that never wins


def pretraining(config: ModelConfig, train: TrainConfig) -> Loss:
    """The loss of a micro-batch and its terms (4,): gene-wise, cell-wise, contrast, type.

    The arrays are those of `cellfm.train.feed.MicroBatch`, in its order.
    """
    with_contrast = bool(train.contrast_weight or train.type_weight)
    with_zeros = train.zero_fraction > 0
    inv_temperature = 1 / train.contrast_temperature
    plan = dropout_plan(config.n_layers, train.dropout)
    gene_weight, cell_weight = train.gene_weight, train.cell_weight
    contrast_weight, type_weight = train.contrast_weight, train.type_weight

    def loss(xp: Operations, p: Weights, arrays: tuple[Array, ...], keys: Array | None) -> tuple[Array, Array]:
        gene_ids, values, visible, mask, chunk_cell, cls_row, target, partner, label, inv_targets, share = arrays
        layout = (gene_ids, mask, chunk_cell, cls_row)
        dropout = None if keys is None else (keys, plan)
        cell, tokens, gene_wise, cell_wise = network(xp, config, p, values, visible, layout, dropout)
        wanted = target * inv_targets  # (c, s)
        by_gene = ((gene_wise - values) ** 2 * wanted).sum()
        by_cell = ((cell_wise - values) ** 2 * wanted).sum()
        if with_zeros:
            genes = gene_rows(xp, p["embed"], gene_ids)
            gene_logit, cell_logit = expressed_logits(
                xp, p["gene_decoder"], p["cell_decoder"], tokens, genes, to_chunks(xp, cell, layout)
            )
            expressed = xp.float32(values > 0)
            by_gene = by_gene + (binary_cross_entropy(xp, gene_logit, expressed) * wanted).sum()
            by_cell = by_cell + (binary_cross_entropy(xp, cell_logit, expressed) * wanted).sum()
        total = gene_weight * by_gene + cell_weight * by_cell
        contrast, of_type = xp.zeros_like(total), xp.zeros_like(total)
        if with_contrast:
            logits = similarities(xp, cell, label) * inv_temperature  # (b, b)
            contrast = partner_loss(xp, logits, partner) * share
            of_type = same_type_loss(xp, logits, label) * share
            total = total + contrast_weight * contrast + type_weight * of_type
        return total, xp.stack((by_gene, by_cell, contrast, of_type), 0)

    return loss


def binary_cross_entropy(xp: Operations, logit: Array, truth: Array) -> Array:
    """``-log p(truth)`` of a Bernoulli logit, without overflow."""
    return xp.relu(logit) - logit * truth + xp.log(1 + xp.exp(-xp.abs(logit)))


def cross_entropy(xp: Operations, logits: Array, label: Array, weight: Array) -> Array:
    """The weighted sum over cells of ``-log p(label)``; `label` (b,) is ignored where `weight` (b,) is 0."""
    return -(log_probability(xp, logits, label) * weight).sum()


def log_probability(xp: Operations, logits: Array, label: Array) -> Array:
    """``log p(label)`` of each cell, (b,); undefined where `label` is negative."""
    return xp.pick(logits, xp.maximum(label, 0)) - xp.logsumexp(logits)


def cosines(xp: Operations, cell: Array) -> Array:
    """(b, d) to (b, b)."""
    unit = cell * xp.rsqrt((cell * cell).sum(-1, keepdims=True) + 1e-12)
    return xp.matmul(unit, unit.T)


def similarities(xp: Operations, cell: Array, label: Array) -> Array:
    """Cosines of all pairs, (b, b); far below for a cell with itself and for empty slots (`label` -2)."""
    valid = (1 - xp.eye(cell.shape[0])) * xp.float32(label > -2)[None]
    return cosines(xp, cell) * valid + FAR * (1 - valid)


def partner_loss(xp: Operations, logits: Array, partner: Array) -> Array:
    """InfoNCE (van den Oord 2018): the other view of a cell against all others; `partner` (b,) is -1 if it has none."""
    has = xp.float32(partner >= 0)
    return -(log_probability(xp, logits, partner) * has).sum() / xp.maximum(has.sum(), 1.0)


def same_type_loss(xp: Operations, logits: Array, label: Array) -> Array:
    """Supervised contrast (Khosla 2020): cells of one label against all others; `label` (b,) is negative if unknown."""
    same = xp.float32(label[None] == label[:, None]) * (1 - xp.eye(logits.shape[0]))
    same = same * xp.float32(label >= 0)[None]
    number = same.sum(1)
    has = xp.float32(number > 0)
    log_p = logits - xp.logsumexp(logits)[:, None]
    mean = (log_p * same).sum(1) / xp.maximum(number, 1.0)
    return -(mean * has).sum() / xp.maximum(has.sum(), 1.0)
