"""Validation: the loss of cells that training never sees, and how well the embedding tells their types."""

from collections.abc import Callable, Sequence

import mindspore as ms
import numpy as np
from mindspore import nn

from cellfm.data import tokenize
from cellfm.model._engine import Engine
from cellfm.train._distributed import total
from cellfm.train._feed import Batch, Feed
from cellfm.train._objective import PretrainObjective

N_NEIGHBORS = 15
LEAST_LABELLED = 50
"""Labelled validation cells below which nothing is said of types."""


def mean_loss(objective: nn.Cell, batches: Sequence[Batch]) -> Callable[[], float]:
    """A compiled function: the loss over the batches of all processes, in which each target counts the same.

    So the loss is the same however the cells are cut into batches, but for terms that compare cells.
    """

    def loss(*arrays: ms.Tensor) -> ms.Tensor:
        return objective(*arrays)[0]

    compiled = ms.jit(loss)
    weights = [batch.n_targets or batch.n_cells for batch in batches]

    def evaluate() -> float:
        objective.set_train(False)
        losses = [sum(float(compiled(*map(ms.Tensor, micro))) for micro in batch.micro) for batch in batches]
        weighted, weight = total([np.dot(losses, weights), sum(weights)])
        return float(weighted / weight)

    return evaluate


class Validation:
    """Facts of a validation, by column of the log."""

    def __init__(self, feed: Feed, objective: PretrainObjective, engine: Engine) -> None:
        self.feed, self.engine = feed, engine
        self._loss = mean_loss(objective, feed.validation()) if feed.corpus.validation.any() else None

    def __call__(self) -> dict[str, float]:
        if self._loss is None:
            return {}
        facts = {"validation_loss": self._loss()}
        knn = self._neighbours_of_a_type()
        return facts if knn is None else facts | {"validation_knn": knn}

    def _neighbours_of_a_type(self) -> float | None:
        """Share of labelled validation cells that their nearest neighbours (cosine, 15, by vote) name rightly."""
        corpus, config = self.feed.corpus, self.feed.config
        if config.type_column not in corpus.columns:
            return None
        cells = np.flatnonzero(corpus.validation & (corpus.codes(config.type_column) >= 0))[: config.n_validation]
        if len(cells) < LEAST_LABELLED:
            return None
        ids = np.arange(1, len(corpus.vocab) + 1, dtype=np.int32)
        tokens = tokenize(corpus.counts(cells), ids, max_genes=self.feed.model.max_genes)
        embedding = self.engine.run(tokens, ("cell",), None)["cell"]
        unit = embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
        similarity = unit @ unit.T
        np.fill_diagonal(similarity, -np.inf)
        nearest = np.argpartition(-similarity, N_NEIGHBORS, axis=1)[:, :N_NEIGHBORS]
        types = corpus.codes(config.type_column)[cells]
        votes = np.apply_along_axis(np.bincount, 1, types[nearest], minlength=int(types.max()) + 1)
        return float((votes.argmax(1) == types).mean())
