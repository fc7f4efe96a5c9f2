"""Held-out cells, and weights of classes."""

import numpy as np


def hold_out(codes: np.ndarray, fraction: float, *, random_state: int = 0) -> np.ndarray:
    """(n,) bool: a share of each class, at least one cell of classes with three or more, never the whole class."""
    generator = np.random.default_rng(random_state)
    held = np.zeros(len(codes), bool)
    for i in np.unique(codes):
        cells = np.flatnonzero(codes == i)
        n = max(round(fraction * len(cells)), 1 if len(cells) > 2 else 0)
        held[generator.permutation(cells)[: min(n, len(cells) - 1)]] = True
    return held


def class_weights(codes: np.ndarray, n_classes: int, *, balanced: bool) -> np.ndarray:
    """(n,) float32, 1 on average; with `balanced`, all classes count the same, whatever their number of cells."""
    if not balanced:
        return np.ones(len(codes), np.float32)
    sizes = np.bincount(codes, minlength=n_classes)
    return (len(codes) / (n_classes * np.maximum(sizes, 1)))[codes].astype(np.float32)
