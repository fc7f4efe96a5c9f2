"""Terms over pairs of cells, by a loop: what the terms of integration are held to."""

import numpy as np

from cellfm.nn.integration import KERNEL_WIDTHS


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


def naive_discrepancy(cell: np.ndarray, codes: np.ndarray, n_batches: int) -> float:
    """Kernel discrepancy of each batch from all cells, by loops; `codes` are those of the first cells."""
    unit = cell[: len(codes)] / np.linalg.norm(cell[: len(codes)], axis=1, keepdims=True)
    square = ((unit[:, None] - unit[None]) ** 2).sum(-1)
    expected = 0.0
    for batch in range(n_batches):
        own = codes == batch
        for width in KERNEL_WIDTHS:
            kernel = np.exp(-square / (2 * width**2))
            apart = kernel[np.ix_(own, own)].mean() - 2 * kernel[own].mean() + kernel.mean()
            expected += own.mean() * apart / len(KERNEL_WIDTHS)
    return expected
