"""What pretraining asks of the network: masked values, and the optional terms (paper, Methods, "Loss").

Sums are over the micro-batch and divided by the targets of the whole batch, so that accumulated gradients are those of
the batch taken at once.
"""

import mindspore as ms
from mindspore import nn, ops

from cellfm.config import TrainConfig
from cellfm.nn import CellFMNetwork

FAR = -1e9  # a logit that never wins


class PretrainObjective(nn.Cell):
    """The loss of a micro-batch and its terms.

    The arrays are those of `cellfm.train._feed.MicroBatch`, in its order.
    """

    def __init__(self, network: CellFMNetwork, config: TrainConfig) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.gene_weight, self.cell_weight = config.gene_weight, config.cell_weight
        self.contrast_weight, self.type_weight = config.contrast_weight, config.type_weight
        self.with_contrast = bool(config.contrast_weight or config.type_weight)
        self.with_zeros = config.zero_fraction > 0
        self.scale = 1 / config.contrast_temperature

    def construct(
        self, gene_ids, values, visible, mask, chunk_cell, cls_row, target, partner, kind, one_by_targets, share
    ) -> tuple[ms.Tensor, ms.Tensor]:
        """The weighted loss, and its terms (4,): gene-wise, cell-wise, contrast, type."""
        cell, tokens, gene_wise, cell_wise = self.network(gene_ids, values, visible, mask, chunk_cell, cls_row)
        asked = target * one_by_targets  # (c, s)
        gene = ((gene_wise - values) ** 2 * asked).sum()
        by_cell = ((cell_wise - values) ** 2 * asked).sum()
        if self.with_zeros:
            gene_logit, cell_logit = self.network.expressed_logits(gene_ids, tokens, cell, chunk_cell)
            expressed = (values > 0).astype(ms.float32)
            gene += (binary_cross_entropy(gene_logit, expressed) * asked).sum()
            by_cell += (binary_cross_entropy(cell_logit, expressed) * asked).sum()
        loss = self.gene_weight * gene + self.cell_weight * by_cell
        contrast, of_type = ops.zeros_like(loss), ops.zeros_like(loss)
        if self.with_contrast:
            logits = similarities(cell, kind) * self.scale  # (b, b)
            contrast, of_type = partner_loss(logits, partner) * share, same_type_loss(logits, kind) * share
            loss += self.contrast_weight * contrast + self.type_weight * of_type
        return loss, ops.stack((gene, by_cell, contrast, of_type))


def binary_cross_entropy(logit: ms.Tensor, truth: ms.Tensor) -> ms.Tensor:
    """``-log p(truth)`` of a Bernoulli logit, without overflow."""
    return ops.relu(logit) - logit * truth + ops.log(1 + ops.exp(-ops.abs(logit)))


def similarities(cell: ms.Tensor, kind: ms.Tensor) -> ms.Tensor:
    """Cosines of all pairs, (b, b); far below for a cell with itself and for empty slots (`kind` -2)."""
    unit = cell * ops.rsqrt((cell * cell).sum(-1, keepdims=True) + 1e-12)
    n = cell.shape[0]
    apart = 1 - ops.eye(n, n, ms.float32)
    there = (kind > -2).astype(ms.float32).expand_dims(0)
    valid = apart * there
    return ops.matmul(unit, unit.T) * valid + FAR * (1 - valid)


def partner_loss(logits: ms.Tensor, partner: ms.Tensor) -> ms.Tensor:
    """InfoNCE (van den Oord 2018): the other view of a cell against all others; `partner` (b,) is -1 if it has none."""
    has = (partner >= 0).astype(ms.float32)
    own = ops.gather_elements(logits, 1, ops.maximum(partner, 0).expand_dims(-1)).squeeze(-1)
    return ((ops.logsumexp(logits, 1) - own) * has).sum() / ops.maximum(has.sum(), 1.0)


def same_type_loss(logits: ms.Tensor, kind: ms.Tensor) -> ms.Tensor:
    """Supervised contrast (Khosla 2020): cells of one kind against all others; `kind` (b,) is negative if unknown."""
    n = logits.shape[0]
    same = (kind.expand_dims(0) == kind.expand_dims(1)).astype(ms.float32) * (1 - ops.eye(n, n, ms.float32))
    same *= (kind >= 0).astype(ms.float32).expand_dims(0)
    number = same.sum(1)
    has = (number > 0).astype(ms.float32)
    log_p = logits - ops.logsumexp(logits, 1).expand_dims(-1)
    mean = (log_p * same).sum(1) / ops.maximum(number, 1.0)
    return -(mean * has).sum() / ops.maximum(has.sum(), 1.0)
