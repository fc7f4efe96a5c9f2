"""Terms over pairs of cells, by a loop: what the terms of integration are held to."""

import numpy as np


def naive_pairs(term, codes: np.ndarray, *, own_batch: bool) -> float:
    """The mean of a term of two cells; `codes` are below 0 where there is no cell."""
    found = []
    for i in range(len(codes)):
        for j in range(len(codes)):
            if i != j and min(codes[i], codes[j]) >= 0 and (codes[i] == codes[j] or not own_batch):
                found.append(term(i, j))
    return float(np.mean(found))


def cosine(x: np.ndarray, i: int, j: int) -> float:
    return float(x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]))
