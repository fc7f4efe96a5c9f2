"""Heads of annotators as arrays, and their predictions."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from cellfm.cells.input import CellInput
from cellfm.errors import InputError
from cellfm.io.progress import progress
from cellfm.model import CellFM
from cellfm.model._embed import embed_cells
from cellfm.tasks.annotation._mlp import MLP, softmax

Kind = Literal["mlp", "query"]
Arrays = dict[str, np.ndarray]


class Head(Protocol):
    """A head that classifies cells."""

    @property
    def kind(self) -> Kind: ...
    @property
    def n_classes(self) -> int: ...
    def arrays(self) -> Arrays:
        """All its arrays by name."""
        ...

    def judge(
        self, model: CellFM, cells: CellInput, *, batch_size: int | None = None, random_state: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits (n_cells, n_classes) and embeddings (n_cells, d); NaN for cells without any known gene."""
        ...


@dataclass(frozen=True)
class MLPHead:
    """A head on CLS."""

    mlp: MLP
    kind: Kind = "mlp"

    @property
    def n_classes(self) -> int:
        return len(self.mlp.biases[-1])

    def judge(
        self, model: CellFM, cells: CellInput, *, batch_size: int | None = None, random_state: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        embedding = embed_cells(model, cells, batch_size=batch_size, random_state=random_state)
        return self.mlp.logits(embedding), embedding

    def arrays(self) -> Arrays:
        return {"mean": self.mlp.mean, "scale": self.mlp.scale} | self.parameters()

    def parameters(self) -> Arrays:
        """What is learned, under the names of `cellfm.nn.heads.mlp_head`."""
        names = [f"hidden.{i}" for i in range(len(self.mlp.weights) - 1)] + ["output"]
        found: Arrays = {}
        for name, weight, bias in zip(names, self.mlp.weights, self.mlp.biases, strict=True):
            found |= {f"{name}.linear.weight": weight, f"{name}.bias": bias}
        return found

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "MLPHead":
        n_hidden = sum(name.startswith("hidden.") for name in arrays) // 2
        names = [f"hidden.{i}" for i in range(n_hidden)] + ["output"]
        weights = tuple(arrays[f"{name}.linear.weight"] for name in names)
        return cls(MLP(arrays["mean"], arrays["scale"], weights, tuple(arrays[f"{name}.bias"] for name in names)))


@dataclass(frozen=True)
class QueryHead:
    """A head on all tokens; `cellfm.nn.heads.query_head` computes it."""

    weights: Arrays
    kind: Kind = "query"

    @property
    def n_classes(self) -> int:
        return len(self.weights["classes"])

    def arrays(self) -> Arrays:
        return self.weights

    def judge(
        self, model: CellFM, cells: CellInput, *, batch_size: int | None = None, random_state: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        from cellfm.train._classify_score import TokenScorer

        scorer = TokenScorer(model, self.weights, batch_size=batch_size)
        n_cells = cells.counts.n_cells
        logits = np.empty((n_cells, self.n_classes), np.float32)
        embedding = np.empty((n_cells, model.config.d_model), np.float32)
        with progress(n_cells, "annotating", "cells") as bar:
            for span, tokens in cells.tokens(model.config.max_genes, random_state):
                of_queries, of_cls, embedding[span] = scorer(tokens)
                # Both score the same classes; their mean is used.
                logits[span] = np.log((softmax(of_queries) + softmax(of_cls)) / 2 + 1e-12)
                bar.update(tokens.n_cells)
        return logits, embedding


def head_of(kind: str, arrays: Arrays) -> Head:
    """A head from its arrays."""
    if kind == "mlp":
        return MLPHead.from_arrays(arrays)
    if kind == "query":
        return QueryHead(arrays)
    raise InputError(f"head must be 'mlp' or 'query', not {kind!r}.")
