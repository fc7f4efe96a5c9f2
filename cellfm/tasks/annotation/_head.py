"""Heads of annotators as arrays, and their predictions."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import scipy.sparse as sp

from cellfm.cells.input import CellInput
from cellfm.errors import InputError
from cellfm.io.progress import progress
from cellfm.model import CellFM
from cellfm.model._embed import embed_cells
from cellfm.tasks._fitted import part_of
from cellfm.tasks.annotation._features import MODEL
from cellfm.tasks.annotation._gene_space import ALL_GENES, BLOCK, INPUTS, GeneSpace
from cellfm.tasks.annotation._mlp import MLP, softmax

Kind = Literal["mlp", "query", "combined"]
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
        self,
        model: CellFM,
        cells: CellInput,
        *,
        embedding: np.ndarray | None = None,
        batch_size: int | None = None,
        random_state: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits (n_cells, n_classes) and embeddings (n_cells, d); NaN for cells without any known gene.

        An `embedding` that is given is not computed again; a query head needs the tokens and computes it in any case.
        """
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
        self,
        model: CellFM,
        cells: CellInput,
        *,
        embedding: np.ndarray | None = None,
        batch_size: int | None = None,
        random_state: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        if embedding is None:
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
        self,
        model: CellFM,
        cells: CellInput,
        *,
        embedding: np.ndarray | None = None,
        batch_size: int | None = None,
        random_state: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        from cellfm.train._classify_score import TokenScorer

        scorer = TokenScorer(model, self.weights, batch_size=batch_size)
        n_cells = cells.counts.n_cells
        logits = np.empty((n_cells, self.n_classes), np.float32)
        embedding = np.empty((n_cells, model.config.d_model), np.float32)
        with progress(n_cells, "annotating", "cells") as bar:
            for span, tokens in cells.tokens(model.config.max_genes, random_state):
                of_queries, of_cls, embedding[span] = scorer(tokens)
                logits[span] = mean_logits([of_queries, of_cls])
                bar.update(tokens.n_cells)
        return logits, embedding


@dataclass(frozen=True)
class CombinedHead:
    """The mean probability of heads on several descriptions of a cell: its embedding, and its genes."""

    parts: dict[str, MLPHead]
    """Heads by the description that they read."""
    genes: GeneSpace
    kind: Kind = "combined"

    @property
    def n_classes(self) -> int:
        return next(iter(self.parts.values())).n_classes

    @property
    def read(self) -> np.ndarray:
        """Places of the genes that it reads."""
        return np.arange(len(self.genes.ids)) if ALL_GENES in self.parts else self.genes.variable

    def logits(self, genes: np.ndarray | sp.csr_matrix, embedding: np.ndarray) -> np.ndarray:
        """(n_cells, n_classes), from the genes (n_cells, n_genes) of the space and the embedding (n_cells, d)."""
        return mean_logits(list(self.part_logits(genes, embedding).values()))

    def part_logits(self, genes: np.ndarray | sp.csr_matrix, embedding: np.ndarray) -> Arrays:
        """The logits of each part, as `logits`."""
        if not isinstance(genes, np.ndarray):
            spans = [slice(i, i + BLOCK) for i in range(0, max(len(embedding), 1), BLOCK)]
            blocks = [self.part_logits(genes[span].toarray(), embedding[span]) for span in spans]
            return {name: np.vstack([block[name] for block in blocks]) for name in self.parts}
        described = {name: embedding if name == MODEL else self.genes.describe(name, genes) for name in self.parts}
        return {name: head.mlp.logits(described[name]) for name, head in self.parts.items()}

    def judge(
        self,
        model: CellFM,
        cells: CellInput,
        *,
        embedding: np.ndarray | None = None,
        batch_size: int | None = None,
        random_state: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        if embedding is None:
            embedding = embed_cells(model, cells, batch_size=batch_size, random_state=random_state)
        logits = np.empty((len(embedding), self.n_classes), np.float32)
        for span, genes in self.genes.blocks(cells):
            logits[span] = self.logits(genes, embedding[span])
        logits[np.isnan(embedding[:, 0])] = np.nan
        return logits, embedding

    def arrays(self) -> Arrays:
        found = {f"space.{name}": array for name, array in vars(self.genes).items()}
        for name, head in self.parts.items():
            found |= {f"{name}.{key}": array for key, array in head.arrays().items()}
        return found

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "CombinedHead":
        names = [name for name in INPUTS if f"{name}.mean" in arrays]
        parts = {name: MLPHead.from_arrays(part_of(arrays, f"{name}.")) for name in names}
        return cls(parts, GeneSpace(**part_of(arrays, "space.")))


def mean_logits(logits: list[np.ndarray]) -> np.ndarray:
    """Logits of the mean probability of heads that score the same classes, (n, n_classes)."""
    return logits[0] if len(logits) == 1 else np.log(sum(map(softmax, logits)) / len(logits) + 1e-12)


def head_of(kind: str, arrays: Arrays) -> Head:
    """A head from its arrays."""
    if kind == "mlp":
        return MLPHead.from_arrays(arrays)
    if kind == "query":
        return QueryHead(arrays)
    if kind == "combined":
        return CombinedHead.from_arrays(arrays)
    raise InputError(f"head must be 'mlp', 'query' or 'combined', not {kind!r}.")
