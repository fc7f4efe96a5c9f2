"""Baseline classifiers for all annotators: scikit-learn's logistic regression, and celltypist."""

import importlib.util
import inspect
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from cellfm.tasks.annotation._features import Features


@dataclass(frozen=True)
class Judgement:
    """Predictions of a classifier without a model."""

    labels: np.ndarray
    """(n_cells,) str."""
    confidence: np.ndarray
    """(n_cells,) float32: the classifier's probability of that label."""


def logistic_regression(features: Features, labels: np.ndarray) -> Judgement:
    """Classify test cells by multinomial logistic regression with an L2 penalty of 1, as scikit-learn fits it by
    default.

    Parameters
    ----------
    features
        Of training and test cells.
    labels
        (n_train,) str.
    """
    classifier = LogisticRegression(max_iter=2000).fit(features.train, labels)
    probabilities = classifier.predict_proba(features.test)
    return Judgement(classifier.classes_[probabilities.argmax(1)], probabilities.max(1).astype(np.float32))


def celltypist_name() -> str | None:
    """Name of the celltypist rows; None if it is not installed."""
    return "celltypist" if importlib.util.find_spec("celltypist") is not None else None


def celltypist(train: sp.csr_matrix, labels: np.ndarray, test: sp.csr_matrix, *, random_state: int = 0) -> Judgement:
    """Classify test cells by a celltypist model of all genes, trained on the training cells with its default settings.

    Parameters
    ----------
    train, test
        (n_train, n_genes) and (n_test, n_genes): log1p of counts per 10,000.
    labels
        (n_train,) str.
    """
    names = [f"gene{i}" for i in range(train.shape[1])]
    cells = AnnData(test)
    cells.var_names = names
    with warnings.catch_warnings(), _with_one_vs_rest():
        warnings.simplefilter("ignore")
        package = _quiet_celltypist()
        options = {"labels": labels, "genes": names, "check_expression": False, "random_state": random_state}
        found = package.annotate(cells, model=package.train(train, **options))
    confidence = found.probability_matrix.to_numpy().max(1).astype(np.float32)
    return Judgement(found.predicted_labels["predicted_labels"].to_numpy().astype(str), confidence)


def _quiet_celltypist() -> ModuleType:
    """The package, without the logging that it sets up for the whole program at its import."""
    handlers = list(logging.root.handlers)
    import celltypist

    logging.root.handlers[:] = handlers
    celltypist.logger.set_level(logging.ERROR)
    return celltypist


class _OneVsRest(LogisticRegression):  # type: ignore[misc]
    """Logistic regression with ``multi_class="ovr"``, an argument that scikit-learn 1.8 removed: a model per class."""

    def __init__(self, *, multi_class: str = "ovr", **options: Any) -> None:
        super().__init__(**options)
        self.multi_class = multi_class

    def fit(self, X: Any, y: np.ndarray) -> "_OneVsRest":
        options = {"C": self.C, "solver": self.solver, "max_iter": self.max_iter, "random_state": self.random_state}
        models = OneVsRestClassifier(LogisticRegression(**options), n_jobs=self.n_jobs).fit(X, y)
        self.coef_ = np.vstack([model.coef_ for model in models.estimators_])
        self.intercept_ = np.concatenate([model.intercept_ for model in models.estimators_])
        self.classes_, self.n_features_in_ = models.classes_, X.shape[1]
        return self


@contextmanager
def _with_one_vs_rest() -> Iterator[None]:
    """Let celltypist 1.7 train its default way with scikit-learn 1.8 and later, too."""
    if "multi_class" in inspect.signature(LogisticRegression).parameters:
        yield
        return
    _quiet_celltypist()
    module = sys.modules["celltypist.train"]
    before = module.LogisticRegression
    module.LogisticRegression = _OneVsRest  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.LogisticRegression = before  # type: ignore[attr-defined]
