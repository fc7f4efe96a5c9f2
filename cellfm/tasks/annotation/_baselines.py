"""Classifiers of others that every annotator is compared with: scikit-learn's logistic regression and celltypist."""

import importlib.util
import inspect
import logging
import warnings
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from sklearn.linear_model import LogisticRegression

from cellfm.tasks.annotation._features import Features


@dataclass(frozen=True)
class Judgement:
    """What a classifier without a model says of some cells."""

    labels: np.ndarray
    """(n_cells,) str."""
    confidence: np.ndarray
    """(n_cells,) float32: probability of that label by the classifier's own word."""


def logistic_regression(features: Features, labels: np.ndarray) -> Judgement:
    """Judge test cells by multinomial logistic regression with an L2 penalty of 1, as scikit-learn fits it by default.

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
    """What the rows of celltypist are called; None where it is not installed.

    Its own logistic regression is what it uses by default; with scikit-learn 1.8 and later, whose interface celltypist
    1.7 does not know, only its stochastic gradient descent runs.
    """
    if importlib.util.find_spec("celltypist") is None:
        return None
    return "celltypist (SGD)" if _only_sgd() else "celltypist"


def celltypist(train: sp.csr_matrix, labels: np.ndarray, test: sp.csr_matrix, *, random_state: int = 0) -> Judgement:
    """Judge test cells by a celltypist model of all genes, trained on the training cells with its default settings.

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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = _quiet_celltypist()
        model = package.train(
            train,
            labels=labels,
            genes=names,
            use_SGD=_only_sgd(),
            check_expression=False,
            random_state=random_state,
        )
        found = package.annotate(cells, model=model)
    confidence = found.probability_matrix.to_numpy().max(1).astype(np.float32)
    return Judgement(found.predicted_labels["predicted_labels"].to_numpy().astype(str), confidence)


def _quiet_celltypist() -> ModuleType:
    """The package, without the logging that it sets up for the whole program at its import."""
    handlers = list(logging.root.handlers)
    import celltypist

    logging.root.handlers[:] = handlers
    celltypist.logger.set_level(logging.ERROR)
    return celltypist


def _only_sgd() -> bool:
    return "multi_class" not in inspect.signature(LogisticRegression).parameters
