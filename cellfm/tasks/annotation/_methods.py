"""The methods that are compared: what a name such as ``"lora-16"`` stands for, and what it says of test cells."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cellfm.errors import InputError
from cellfm.tasks.annotation._baselines import celltypist, celltypist_name, logistic_regression
from cellfm.tasks.annotation._evaluation_set import COMPONENTS, GENES, MODEL, EvaluationSet
from cellfm.tasks.annotation._neighbors import fit_neighbor_vote
from cellfm.tasks.annotation._split import Fold
from cellfm.tasks.annotation._train import train_annotator

NEIGHBORS = "knn"
LOGISTIC_REGRESSION = "logistic regression (HVG-PCA)"
_FITTED: dict[str, dict[str, Any]] = {
    "frozen": {"method": "frozen", "n_layers": 1},
    "frozen-2": {"method": "frozen", "n_layers": 2},
    "frozen-3": {"method": "frozen", "n_layers": 3},
    "query": {"method": "frozen", "head": "query"},
    "lora": {"method": "lora"},
    "full": {"method": "full"},
}


@dataclass(frozen=True)
class Evaluation:
    """What a method says of test cells."""

    labels: np.ndarray
    """(n_test,) str: the most probable class."""
    confidence: np.ndarray
    """(n_test,) float32."""
    distance: np.ndarray | None = None
    """(n_test,) float32: from the reference; None for methods that know none."""
    confidence_threshold: float = 0.0
    distance_threshold: float | np.ndarray = np.inf
    """One for all, or (n_test,): that of the class of each cell, as `cf.tl.annotate` applies it to these cells."""
    history: pd.DataFrame | None = None
    """A row for each epoch of training, for methods that are trained by epochs."""


def require_methods(names: list[str]) -> None:
    """Refuse names that stand for no method.

    Raises
    ------
    InputError
        There are such names, or the same twice; the message lists the available ones.
    """
    unknown = [name for name in names if fit_options(name) is None and name != NEIGHBORS]
    if unknown:
        known = ", ".join(map(repr, (NEIGHBORS, *_FITTED)))
        raise InputError(
            f"No method {unknown[0]!r}; available: {known}, and 'lora-8' for adapters of another rank. "
            "The same heads on principal components and on variable genes ('frozen-pca', 'frozen-hvg') and "
            f"{LOGISTIC_REGRESSION!r} are always added, and celltypist where it is installed."
        )
    if len(set(names)) < len(names):
        raise InputError(f"methods contains duplicates: {', '.join(map(repr, names))}.")


def fit_options(name: str) -> dict[str, Any] | None:
    """What `train_annotator` is told for a method; None where it is not asked."""
    if rank := re.fullmatch(r"lora-([1-9]\d*)", name):
        return {"method": "lora", "lora_rank": int(rank[1])}
    return _FITTED.get(name)


def with_baselines(names: list[str], on: EvaluationSet) -> list[str]:
    """The methods, and what they are compared with.

    These are the same heads on principal components (``"frozen-pca"``) and on variable genes (``"frozen-hvg"``),
    logistic regression, and celltypist, which takes nothing but what was made of counts.
    """
    heads = dict.fromkeys(_head_of(name) for name in names)
    same = [f"{head}-{features}" for head in heads for features in (COMPONENTS, GENES)]
    beside = celltypist_name() if on.has_counts else None
    return [*names, *same, LOGISTIC_REGRESSION, *([beside] if beside else [])]


def features_of(name: str) -> str:
    """What a method reads of the cells: ``"model"``, ``"pca"``, ``"hvg"``, or ``"genes"`` where it is all of them."""
    if name == LOGISTIC_REGRESSION:
        return COMPONENTS
    if name.endswith((f"-{COMPONENTS}", f"-{GENES}")):
        return name.rpartition("-")[2]
    return MODEL if name == NEIGHBORS or fit_options(name) is not None else "genes"


def evaluate(name: str, on: EvaluationSet, fold: Fold, *, random_state: int = 0) -> Evaluation:
    """Fit a method to the training cells of a fold and ask it about the test cells."""
    labels = on.labels[fold.train]
    features = features_of(name)
    if features == "genes":
        said = celltypist(on.values[fold.train], labels, on.values[fold.test], random_state=random_state)
        return Evaluation(said.labels, said.confidence)
    seen = on.features(features, fold, random_state=random_state)
    if name == LOGISTIC_REGRESSION:
        said = logistic_regression(seen, labels)
        return Evaluation(said.labels, said.confidence)
    head = name.removesuffix(f"-{features}")
    history = None
    if head == NEIGHBORS:
        vote = fit_neighbor_vote(seen.train, labels)
        found, classes = vote.predict(seen.test), vote.classes
        thresholds = vote.confidence_threshold, vote.distance_threshold
    else:
        annotator = train_annotator(
            on.model,
            on.cells.take(fold.train),
            labels,
            embedding=seen.train,
            random_state=random_state,
            **(fit_options(head) or {}),
        )
        found = annotator.predict_cells(on.cells.take(fold.test), embedding=seen.test)
        classes, history = annotator.classes, annotator.history
        thresholds = annotator.confidence_threshold, annotator.distance_threshold
    chosen = np.array(classes)[found.codes]
    most = found.reject(*thresholds, inflate_distances=True).distance_thresholds[found.codes]
    return Evaluation(chosen, found.confidence, found.distance, thresholds[0], most, history)


def _head_of(name: str) -> str:
    """The head that can be put on other features: methods that train the model too start from ``"frozen"``."""
    return name if name == NEIGHBORS or name.startswith("frozen") else "frozen"
