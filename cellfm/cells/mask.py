"""Choose the values that pretraining hides and predicts (paper, Methods, "Embedding"; with the published fractions)."""

import numpy as np


def choose_targets(
    n_genes: int, generator: np.random.Generator, *, target_fraction: float = 0.2, hide_fraction: float = 0.8
) -> tuple[np.ndarray, np.ndarray]:
    """Choose among the genes of one cell.

    Returns
    -------
    Two boolean arrays (n_genes,): the ``int(target_fraction * n)`` targets, whose values are predicted, and the
    ``int(hide_fraction * targets)`` of them whose values are hidden; the others stay visible.
    """
    n_targets = int(target_fraction * n_genes)
    chosen = generator.permutation(n_genes)[:n_targets]
    target, hidden = np.zeros(n_genes, bool), np.zeros(n_genes, bool)
    target[chosen] = True
    hidden[chosen[: int(hide_fraction * n_targets)]] = True
    return target, hidden
