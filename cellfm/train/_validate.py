"""Validation: the loss of cells that training never sees, and how well the embedding separates their types."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cellfm.cells.chunk import Chunks
from cellfm.cells.tokenize import tokenize
from cellfm.config import ModelConfig
from cellfm.engines import Engine, Objective, Trainer
from cellfm.model._encoder import Encoder
from cellfm.model._network import arrays_of
from cellfm.nn.network import embed_cells
from cellfm.train._feed import Batch, Feed

N_NEIGHBORS = 15
MIN_LABELLED = 50
"""Minimum number of labelled validation cells for a score of types."""


def mean_loss(
    trainer: Trainer, objective: Objective, batches: Sequence[Batch[Any]], engine: Engine
) -> Callable[[], float]:
    """A function that computes the loss over the batches of all processes, in which each target counts the same.

    So the loss does not depend on the division into batches, except for terms that compare cells.
    """
    loss = objective.loss

    def of_micro(xp: Any, weights: Any, arrays: Any) -> Any:
        return loss(xp, weights, arrays, None)[0]

    compiled = trainer.compile(of_micro)
    weights = [batch.n_targets or batch.n_cells for batch in batches]

    def evaluate() -> float:
        losses = [sum(float(compiled(*micro)) for micro in batch.micro) for batch in batches]
        weighted, weight = engine.total(np.array([np.dot(losses, weights), sum(weights)]))
        return float(weighted / weight)

    return evaluate


class NetworkInTraining:
    """CLS by the current weights, for `Encoder`."""

    def __init__(self, config: ModelConfig, trainer: Trainer, engine: Engine) -> None:
        self.on_cpu = engine.on_cpu

        def of_cells(xp: Any, weights: Any, arrays: Any) -> Any:
            values, gene_ids, mask, chunk_cell, cls_row = arrays
            return embed_cells(xp, config, weights, values, (gene_ids, mask, chunk_cell, cls_row))

        self._cell = trainer.compile(of_cells)

    def prepare(self, n_tokens: int) -> None:
        """There is nothing to prepare."""

    def cell(self, chunks: Chunks) -> Any:
        return self._cell(*arrays_of(chunks))


class Validation:
    """Results of a validation, by column of the log."""

    def __init__(self, feed: Feed, objective: Objective, trainer: Trainer, engine: Engine) -> None:
        self.feed, self.trainer = feed, trainer
        self.encoder = Encoder(feed.model, NetworkInTraining(feed.model, trainer, engine))
        has_cells = feed.corpus.validation.any()
        self._loss = mean_loss(trainer, objective, feed.validation(), engine) if has_cells else None

    def __call__(self) -> dict[str, float]:
        if self._loss is None:
            return {}
        self.trainer.gather()
        facts = {"validation_loss": self._loss()}
        knn = self._neighbours_of_a_type()
        return facts if knn is None else facts | {"validation_knn": knn}

    def _neighbours_of_a_type(self) -> float | None:
        """Share of labelled validation cells that a vote of their 15 nearest neighbours (cosine) labels correctly."""
        corpus, config = self.feed.corpus, self.feed.config
        if config.type_column not in corpus.columns:
            return None
        cells = np.flatnonzero(corpus.validation & (corpus.codes(config.type_column) >= 0))[: config.n_validation]
        if len(cells) < MIN_LABELLED:
            return None
        ids = np.arange(1, len(corpus.vocab) + 1, dtype=np.int32)
        tokens = tokenize(corpus.counts(cells), ids, max_genes=self.feed.model.max_genes)
        embedding = self.encoder.run(tokens, ("cell",), None)["cell"]
        unit = embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
        similarity = unit @ unit.T
        np.fill_diagonal(similarity, -np.inf)
        nearest = np.argpartition(-similarity, N_NEIGHBORS, axis=1)[:, :N_NEIGHBORS]
        types = corpus.codes(config.type_column)[cells]
        votes = np.apply_along_axis(np.bincount, 1, types[nearest], minlength=int(types.max()) + 1)
        return float((votes.argmax(1) == types).mean())
