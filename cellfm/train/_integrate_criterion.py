"""Score an integration without labels: how well batches can still be distinguished, and how much the structure has
changed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cellfm.config import ModelConfig
from cellfm.engines import Engine, Objective, Trainer
from cellfm.nn.integration import IntegrationWeights
from cellfm.nn.network import embed_cells
from cellfm.train._feed import Batch

N_NEIGHBORS = 15


class IntegrationCriterion:
    """The score of the validation cells; lower is better.

    The terms of the loss, except that of the discriminator, whose loss depends on its own skill as much as on the
    network: `separability` replaces it. `cf.train.finetune` calls it as a criterion; it keeps its results in `rows`.
    """

    def __init__(self, config: ModelConfig, weights: IntegrationWeights) -> None:
        self.config, self.weights = config, weights
        self.rows: list[dict[str, float]] = []

    def __call__(self, trainer: Trainer, objective: Objective, batches: Sequence[Batch], engine: Engine) -> Any:
        loss, config, counts = objective.loss, self.config, self.weights

        def look(xp: Any, weights: Any, arrays: Any) -> Any:
            gene_ids, values, _, mask, chunk_cell, cls_row = arrays[:6]
            cell = embed_cells(xp, config, weights, values, (gene_ids, mask, chunk_cell, cls_row))
            return cell, loss(xp, weights, arrays, None)[1]

        compiled = trainer.compile(look)
        of_batch = np.concatenate([micro.label[micro.label >= 0] for batch in batches for micro in batch.micro])

        def evaluate() -> float:
            cells, terms = [], np.zeros(5)
            for batch in batches:
                for micro in batch.micro:
                    cell, found = compiled(*micro)
                    cells.append(cell[micro.label >= 0])
                    terms += found * batch.n_cells / len(of_batch)
            _, structure, masked, elastic, discrepancy = terms
            separable = separability(np.concatenate(cells), of_batch)
            score = (
                counts.adversary * separable
                + counts.structure * structure
                + counts.masked * masked
                + counts.elastic * elastic
                + counts.discrepancy * discrepancy
            )
            found = {
                "separability": separable,
                "structure": structure,
                "masked": masked,
                "elastic": elastic,
                "discrepancy": discrepancy,
            }
            self.rows.append({name: float(value) for name, value in found.items()})
            return float(score)

        return evaluate


def separability(cells: np.ndarray, of_batch: np.ndarray, n_neighbors: int = N_NEIGHBORS) -> float:
    """How much more often than by chance neighbours (cosine) come from the same batch: 0 mixed, 1 separate.

    Parameters
    ----------
    cells
        (n_cells, d).
    of_batch
        (n_cells,) int.

    Returns
    -------
    Over the batches of more than one cell, the mean of (share of own neighbours - share of own cells) / (1 - that).
    """
    n = len(cells)
    unit = cells / np.maximum(np.linalg.norm(cells, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    k = min(n_neighbors, n - 1)
    nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
    same_batch = (of_batch[nearest] == of_batch[:, None]).mean(1)
    scores = []
    for batch in np.unique(of_batch):
        members = of_batch == batch
        by_chance = (members.sum() - 1) / (n - 1)
        if 1 < members.sum() < n:
            scores.append((same_batch[members].mean() - by_chance) / (1 - by_chance))
    return float(max(0.0, np.mean(scores))) if scores else 0.0
