"""Scores of predicted labels: accuracy, F1, tables by class, and the detection of unknown cells."""

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score


def label_scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Accuracy, macro F1 and weighted F1, all 0 to 1.

    Macro F1 is the mean of the F1 of all classes that are true or predicted anywhere, each counting the same; in
    weighted F1 they count by their number of true cells.
    """
    macro = precision_recall_fscore_support(truth, predicted, average="macro", zero_division=0)[2]
    weighted = precision_recall_fscore_support(truth, predicted, average="weighted", zero_division=0)[2]
    return {
        "accuracy": float((truth == predicted).mean()),
        "macro_f1": float(macro),
        "weighted_f1": float(weighted),
    }


def class_table(truth: np.ndarray, predicted: np.ndarray) -> pd.DataFrame:
    """One row for each true class: label, precision, recall, f1, n_cells."""
    classes = np.unique(truth)
    precision, recall, f1, n_cells = precision_recall_fscore_support(truth, predicted, labels=classes, zero_division=0)
    return pd.DataFrame({"label": classes, "precision": precision, "recall": recall, "f1": f1, "n_cells": n_cells})


def confusion_table(truth: np.ndarray, predicted: np.ndarray) -> pd.DataFrame:
    """Numbers of cells: rows are true labels, columns predicted ones, both over all labels that occur."""
    classes = np.union1d(truth, predicted)
    counts = confusion_matrix(truth, predicted, labels=classes)
    return pd.DataFrame(counts, index=pd.Index(classes, name="true"), columns=pd.Index(classes, name="predicted"))


def rejection_scores(
    unknown: np.ndarray,
    confidence: np.ndarray,
    distance: np.ndarray | None = None,
    *,
    confidence_threshold: float = 0.0,
    distance_threshold: float | np.ndarray = np.inf,
) -> dict[str, float]:
    """How well cells of types that training has not seen are distinguished from the others.

    AUROC: the probability that an unknown cell looks more unknown than a known one (0.5 by chance), by low confidence,
    by large distance, and by both: the larger of 1 - confidence and distance after dividing each by its threshold,
    which is above 1 exactly where a cell is rejected. Also the shares of unknown and known cells that the thresholds
    reject.

    Parameters
    ----------
    unknown
        (n_cells,) bool.
    confidence, distance
        (n_cells,) float; what needs the distance is left out where there is none.
    distance_threshold
        One for all cells, or (n_cells,).
    """
    scores = {"auroc_confidence": float(roc_auc_score(unknown, 1 - confidence))}
    if distance is None:
        return scores
    least = np.finfo(np.float32).eps
    both = np.maximum(
        (1 - confidence) / max(1 - confidence_threshold, float(least)), distance / np.maximum(distance_threshold, least)
    )
    rejected = (confidence < confidence_threshold) | (distance > distance_threshold)
    return scores | {
        "auroc_distance": float(roc_auc_score(unknown, distance)),
        "auroc_both": float(roc_auc_score(unknown, both)),
        "unknown_rejected": float(rejected[unknown].mean()),
        "known_rejected": float(rejected[~unknown].mean()),
    }
