"""Predict gene function from features: repeated cross-validation of two classifiers, and their scores."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
)
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split
from sklearn.multiclass import OneVsRestClassifier

from cellfm.io.progress import progress
from cellfm.tasks.genes._mlp import Recipe, binary_recipe, multilabel_recipe, probabilities, train_folds

MLP: Final = "MLP"
LOGISTIC: Final = "logistic regression"
VALIDATION = 0.2
"""Share of the training genes that choose the epoch or the penalty."""
PENALTIES = (0.001, 0.01, 0.1, 1.0)  # sklearn's C


def cross_validate(
    features: dict[str, np.ndarray],
    y: np.ndarray,
    *,
    n_folds: int,
    n_repeats: int,
    recipe_options: dict[str, float],
    random_state: int = 0,
) -> pd.DataFrame:
    """Scores of each fold for each set of features, on the same folds.

    Parameters
    ----------
    features
        (n_genes, d) by name.
    y
        (n_genes, k) of 0 and 1; k is 1 for two classes.

    Returns
    -------
    DataFrame: ``features``, ``classifier``, ``repeat``, ``fold`` and the metrics.
    """
    rows = []
    with progress(n_repeats * len(features) * 2, "cross-validating", "fits") as bar:
        for repeat in range(n_repeats):
            folds = list(_folds(y, n_folds, random_state + repeat))
            for name, x in features.items():
                for classifier, fit in ((MLP, _mlp_scores), (LOGISTIC, _logistic_scores)):
                    found = fit(x, y, folds, recipe_options, random_state + repeat)
                    for fold, ((_, _, test), p) in enumerate(zip(folds, found, strict=True)):
                        rows.append({"features": name, "classifier": classifier, "repeat": repeat, "fold": fold})
                        rows[-1] |= metrics(y[test], p)
                    bar.update()
    return pd.DataFrame(rows)


def fit_and_score(
    x: np.ndarray, y: np.ndarray, unlabelled: np.ndarray, classifier: str, recipe_options: dict, random_state: int = 0
) -> np.ndarray:
    """Probabilities (n_unlabelled, k) by a classifier fitted on all labelled genes."""
    both = np.concatenate((x, unlabelled))
    train, validation = _inner(np.arange(len(x)), y, random_state)
    fold = (train, validation, np.arange(len(x), len(both)))
    fit = _mlp_scores if classifier == MLP else _logistic_scores
    padded = np.concatenate((y, np.zeros((len(unlabelled), y.shape[1]), y.dtype)))
    return fit(both, padded, [fold], recipe_options, random_state)[0]


def metrics(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """For two classes AUROC, AUPRC, accuracy, macro F1; for many labels micro AUPRC, Fmax and macro AUROC."""
    if y.shape[1] == 1:
        truth, score = y[:, 0], p[:, 0]
        predicted = score > 0.5
        return {
            "auroc": roc_auc_score(truth, score),
            "auprc": average_precision_score(truth, score),
            "accuracy": accuracy_score(truth, predicted),
            "macro_f1": f1_score(truth, predicted, average="macro"),
        }
    has_both = (y.sum(0) > 0) & (y.sum(0) < len(y))
    return {
        "auprc": average_precision_score(y.ravel(), p.ravel()),
        "fmax": fmax(y, p),
        "auroc": roc_auc_score(y[:, has_both], p[:, has_both], average="macro"),
    }


def fmax(y: np.ndarray, p: np.ndarray) -> float:
    """The largest micro F1 over all thresholds."""
    precision, recall, _ = precision_recall_curve(y.ravel(), p.ravel())
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)))


Fold = tuple[np.ndarray, np.ndarray, np.ndarray]


def _folds(y: np.ndarray, n_folds: int, random_state: int) -> Iterator[Fold]:
    """Training, validation and test genes of each fold; two classes keep their shares."""
    splitter = (StratifiedKFold if y.shape[1] == 1 else KFold)(n_folds, shuffle=True, random_state=random_state)
    for train, test in splitter.split(y, y[:, 0]):
        yield *_inner(train, y[train], random_state), test


def _inner(genes: np.ndarray, y: np.ndarray, random_state: int) -> tuple[np.ndarray, np.ndarray]:
    stratify = y[:, 0] if y.shape[1] == 1 else None
    return train_test_split(genes, test_size=VALIDATION, random_state=random_state, stratify=stratify)


def _standardised(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    return ((x - x[train].mean(0)) / (x[train].std(0) + 1e-6)).astype(np.float32)


def _mlp_scores(x: np.ndarray, y: np.ndarray, folds: list[Fold], options: dict, random_state: int) -> list[np.ndarray]:
    k = y.shape[1]
    recipe: Recipe = binary_recipe(x.shape[1], **options) if k == 1 else multilabel_recipe(**options)
    by_fold = np.stack([_standardised(x, train) for train, _, _ in folds])
    parts = [train for train, _, _ in folds], [validation for _, validation, _ in folds]
    weights = train_folds(by_fold, y.astype(np.float32), *parts, recipe, random_state)
    found = probabilities(by_fold, weights, recipe)
    return [p[test] for p, (_, _, test) in zip(found, folds, strict=True)]


def _logistic_scores(x: np.ndarray, y: np.ndarray, folds: list[Fold], _: dict, random_state: int) -> list[np.ndarray]:
    found = []
    for train, validation, test in folds:
        values = _standardised(x, train)

        def fitted(penalty: float, genes: np.ndarray, values: np.ndarray = values) -> OneVsRestClassifier:
            one = LogisticRegression(C=penalty, class_weight="balanced", max_iter=2000, random_state=random_state)
            return OneVsRestClassifier(one).fit(values[genes], y[genes] if y.shape[1] > 1 else y[genes, 0])

        scores = [_probability(fitted(penalty, train), values[validation]).ravel() for penalty in PENALTIES]
        judged = [average_precision_score(y[validation].ravel(), score) for score in scores]
        best = PENALTIES[int(np.argmax(judged))]
        found.append(_probability(fitted(best, np.concatenate((train, validation))), values[test]))
    return found


def _probability(model: OneVsRestClassifier, values: np.ndarray) -> np.ndarray:
    return model.predict_proba(values)[:, -len(model.estimators_) :]
