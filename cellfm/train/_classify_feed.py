"""Batches of labelled cells, as tokens; all of one shape, and the same for the same seed."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cellfm.cells.chunk import CHUNK, chunk_cells, chunks_of, fill_batches
from cellfm.cells.tokenize import TokenBatch
from cellfm.config import ModelConfig
from cellfm.model._encoder import chunks_on_cpu, depth_tokens
from cellfm.train._feed import Batch


class LabelledTokens(NamedTuple):
    """A micro-batch for the objectives of `cellfm.train._classify`."""

    gene_ids: np.ndarray
    values: np.ndarray
    visible: np.ndarray
    mask: np.ndarray
    chunk_cell: np.ndarray
    cls_row: np.ndarray
    label: np.ndarray
    """(b,) int32: number of the class."""
    weight: np.ndarray
    """(b,) float32: share of the batch's loss; 0 for slots without a cell."""


@dataclass(frozen=True)
class TokenBatches:
    """Batches of tokenised cells, in micro-batches of `n_chunks` chunks."""

    tokens: TokenBatch
    """Tokens of all cells; each cell has some."""
    model: ModelConfig
    label: np.ndarray
    """(n_cells,) int: number of the class."""
    weight: np.ndarray
    """(n_cells,) float32: weight of a cell; 1 on average."""
    held_out: np.ndarray
    """(n_cells,) bool: cells for validation."""
    batch_size: int
    n_chunks: int
    random_state: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-int((~self.held_out).sum()) // self.batch_size)

    @property
    def min_chunks(self) -> int:
        return chunks_needed(self.tokens, self.model)

    def batch(self, step: int) -> Batch[LabelledTokens]:
        """The batch of step `step`, counted from 0; each epoch has an order of its own."""
        epoch, place = divmod(step, self.steps_per_epoch)
        train = np.flatnonzero(~self.held_out)
        order = np.random.default_rng((self.random_state, epoch)).permutation(train)
        return self._lay_out(np.array_split(order, self.steps_per_epoch)[place])

    def validation(self) -> list[Batch[LabelledTokens]]:
        """The validation cells, the same at every call."""
        cells = np.flatnonzero(self.held_out)
        n_parts = -(-len(cells) // self.batch_size)
        return [self._lay_out(part) for part in np.array_split(cells, n_parts)] if n_parts else []

    def _lay_out(self, cells: np.ndarray) -> Batch[LabelledTokens]:
        shape = {"n_chunks": self.n_chunks, "n_slots": self.n_chunks, "length": chunk_length(self.model)}
        parts = fill_batches(self.tokens.lengths[cells], **shape, n_special=self.model.n_special)
        return Batch([self._micro(cells[part], len(cells), shape) for part in parts], len(cells), 0)

    def _micro(self, cells: np.ndarray, n: int, shape: dict[str, int]) -> LabelledTokens:
        chunks = chunk_cells(self.tokens, cells, **shape, specials=depth_tokens(self.tokens, cells, self.model))
        label, weight = np.zeros(self.n_chunks, np.int32), np.zeros(self.n_chunks, np.float32)
        label[: len(cells)] = self.label[cells]
        weight[: len(cells)] = self.weight[cells] / n
        return LabelledTokens(
            chunks.gene_ids,
            chunks.values,
            np.ones_like(chunks.mask),
            chunks.mask,
            chunks.chunk_cell,
            chunks.cls_row,
            label,
            weight,
        )


def chunk_length(model: ModelConfig) -> int:
    """Number of tokens per chunk; networks with decay need all tokens of a cell in one chunk."""
    return CHUNK if model.retention == "linear" else model.max_genes + model.n_special


def chunks_needed(tokens: TokenBatch, model: ModelConfig) -> int:
    """Number of chunks of the largest cell."""
    return int(chunks_of(tokens.lengths, chunk_length(model), model.n_special).max(initial=1))


def chunks_at_once(tokens: TokenBatch, model: ModelConfig, batch_size: int) -> int:
    """The fastest number of chunks, at most what `batch_size` cells may need, and enough for any single cell."""
    largest = chunks_needed(tokens, model)
    return min(max(chunks_on_cpu(model), largest), batch_size * largest)
