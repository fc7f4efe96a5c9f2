"""Batches of cells that are to be integrated: the tokens, the batch of each cell, and its embedding at the start."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cellfm.train._feed import Batch, Feed, MicroBatch


class BatchedCells(NamedTuple):
    """A micro-batch for `cellfm.nn.integration`: the arrays of pretraining, and more about its cells."""

    gene_ids: np.ndarray
    values: np.ndarray
    visible: np.ndarray
    mask: np.ndarray
    chunk_cell: np.ndarray
    cls_row: np.ndarray
    target: np.ndarray
    partner: np.ndarray
    label: np.ndarray
    """(b,) int32: batch of each cell, -2 for empty slots."""
    inv_targets: np.float32
    share: np.float32
    start: np.ndarray
    """(b, d) float32: embedding of each cell before fine-tuning."""
    weight: np.ndarray
    """(b,) float32: weight of a cell for the discriminator; batches count equally, empty slots 0."""
    grl_ramp: np.float32
    """Share of the full scale at which gradients are reversed."""


@dataclass(frozen=True)
class IntegrationFeed:
    """Batches of cells with their batch and their embedding at the start.

    Parameters
    ----------
    cells
        Batches whose field `label` is the number of the cell.
    codes
        (n_cells,) int32: batch of each cell.
    start
        (n_cells, d) float32: embeddings; only those of cells that occur are read.
    n_masked
        Number of chunks of a micro-batch whose masked values are predicted.
    grl_ramp
        Steps over which the scale of the reversed gradient grows.
    """

    cells: Feed
    codes: np.ndarray
    start: np.ndarray
    n_masked: int
    grl_ramp: int

    @property
    def steps_per_epoch(self) -> int:
        return self.cells.steps_per_epoch

    @property
    def min_chunks(self) -> int:
        return self.cells.min_chunks

    def batch(self, step: int) -> Batch[BatchedCells]:
        return self._with_batches(self.cells.batch(step), min(1.0, (step + 1) / max(1, self.grl_ramp)))

    def validation(self) -> list[Batch[BatchedCells]]:
        return [self._with_batches(batch, 1.0) for batch in self.cells.validation()]

    def _with_batches(self, batch: Batch[MicroBatch], grl_ramp: float) -> Batch[BatchedCells]:
        asked = int(sum(micro.target[: self.n_masked].sum() for micro in batch.micro))
        frequency = np.bincount(self.codes)
        weight = len(self.codes) / (len(frequency) * frequency * batch.n_cells)  # by batch
        micro = [self._lay_out(micro, weight, asked, grl_ramp) for micro in batch.micro]
        return Batch(micro, batch.n_cells, 0)

    def _lay_out(self, micro: MicroBatch, weight: np.ndarray, asked: int, grl_ramp: float) -> BatchedCells:
        cells = micro.label[micro.label >= 0]
        n, n_slots = len(cells), len(micro.label)
        codes, weights = np.full(n_slots, -2, np.int32), np.zeros(n_slots, np.float32)
        start = np.zeros((n_slots, self.start.shape[1]), np.float32)
        codes[:n], weights[:n], start[:n] = self.codes[cells], weight[self.codes[cells]], self.start[cells]
        ours = micro._replace(label=codes, inv_targets=np.float32(1 / max(1, asked)))
        return BatchedCells(*ours, start, weights, np.float32(grl_ramp))
