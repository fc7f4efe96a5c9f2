"""The methods that are compared: the meaning of names such as ``"lora-16"``, and predictions for test cells."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cellfm.errors import InputError
from cellfm.tasks.annotation._baselines import celltypist, celltypist_name, logistic_regression
from cellfm.tasks.annotation._evaluation_set import EvaluationSet
from cellfm.tasks.annotation._features import COMPONENTS, GENES, MODEL
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
    "auto": {"method": "auto"},
}


@dataclass(frozen=True)
class Evaluation:
    """Predictions of a method for test cells."""

    labels: np.ndarray
    """(n_test,) str: the most probable class."""
    confidence: np.ndarray
    """(n_test,) float32."""
    distance: np.ndarray | None = None
    """(n_test,) float32: distance from the reference; None for methods without distances."""
    confidence_threshold: float = 0.0
    distance_threshold: float | np.ndarray = np.inf
    """One for all cells, or (n_test,): that of the class of each cell, as `cf.tl.annotate` applies it."""
    history: pd.DataFrame | None = None
    """A row for each epoch of training, for methods that are trained by epochs."""


def require_methods(names: list[str]) -> None:
    """Refuse names of methods that do not exist.

    Raises
    ------
    InputError
        A name is unknown or repeated; the message lists the available ones.
    """
    unknown = [name for name in names if fit_options(name) is None and name != NEIGHBORS]
    if unknown:
        known = ", ".join(map(repr, (NEIGHBORS, *_FITTED)))
        raise InputError(
            f"No method {unknown[0]!r}; available: {known}, and 'lora-8' for adapters of another rank. "
            "The same heads on principal components and on variable genes ('frozen-pca', 'frozen-hvg') and "
            f"{LOGISTIC_REGRESSION!r} are always added, and celltypist if it is installed."
        )
    if len(set(names)) < len(names):
        raise InputError(f"methods contains duplicates: {', '.join(map(repr, names))}.")


def fit_options(name: str) -> dict[str, Any] | None:
    """Arguments of `train_annotator` for a method; None for methods that do not use it."""
    if rank := re.fullmatch(r"lora-([1-9]\d*)", name):
        return {"method": "lora", "lora_rank": int(rank[1])}
    return _FITTED.get(name)


def with_baselines(names: list[str], on: EvaluationSet) -> list[str]:
    """The methods, and what they are compared with.

    These are the same heads on principal components (``"frozen-pca"``) and on variable genes (``"frozen-hvg"``),
    logistic regression, and celltypist, which accepts only values computed from counts.
    """
    heads = dict.fromkeys(_head_of(name) for name in names)
    same = [f"{head}-{features}" for head in heads for features in (COMPONENTS, GENES)]
    beside = celltypist_name() if on.has_counts else None
    return [*names, *same, LOGISTIC_REGRESSION, *([beside] if beside else [])]


def features_of(name: str) -> str:
    """The input of a method: ``"model"``, ``"pca"``, ``"hvg"``, or ``"genes"`` for all genes."""
    if name == LOGISTIC_REGRESSION:
        return COMPONENTS
    if name.endswith((f"-{COMPONENTS}", f"-{GENES}")):
        return name.rpartition("-")[2]
    return MODEL if name == NEIGHBORS or fit_options(name) is not None else "genes"


def evaluate(name: str, on: EvaluationSet, fold: Fold, *, random_state: int = 0) -> Evaluation:
    """Fit a method to the training cells of a fold and predict the test cells."""
    labels = on.labels[fold.train]
    features = features_of(name)
    if features == "genes":
        predicted = celltypist(on.values[fold.train], labels, on.values[fold.test], random_state=random_state)
        return Evaluation(predicted.labels, predicted.confidence)
    seen = on.features(features, fold, random_state=random_state)
    if name == LOGISTIC_REGRESSION:
        predicted = logistic_regression(seen, labels)
        return Evaluation(predicted.labels, predicted.confidence)
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
            groups=on.groups_of(fold.train) if head == "auto" else None,
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
    """The same head on other features; ``"frozen"`` for methods that also train the model."""
    return name if name == NEIGHBORS or name.startswith("frozen") else "frozen"
