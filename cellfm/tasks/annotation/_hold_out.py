"""Held-out cells, and weights of classes."""

import numpy as np


def hold_out(kind: np.ndarray, fraction: float, *, random_state: int = 0) -> np.ndarray:
    """(n,) bool: a share of each class, at least one cell where the class has three, never the whole class."""
    generator = np.random.default_rng(random_state)
    held = np.zeros(len(kind), bool)
    for i in np.unique(kind):
        cells = np.flatnonzero(kind == i)
        n = max(round(fraction * len(cells)), 1 if len(cells) > 2 else 0)
        held[generator.permutation(cells)[: min(n, len(cells) - 1)]] = True
    return held


def class_weights(kind: np.ndarray, n_classes: int, *, balanced: bool) -> np.ndarray:
    """(n,) float32, 1 on average; `balanced`: every class counts the same, however many cells it has."""
    if not balanced:
        return np.ones(len(kind), np.float32)
    sizes = np.bincount(kind, minlength=n_classes)
    return (len(kind) / (n_classes * np.maximum(sizes, 1)))[kind].astype(np.float32)
