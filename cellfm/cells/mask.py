"""Which values pretraining hides and asks for (paper, Methods, "Embedding"; the fractions are the published ones)."""

import numpy as np


def choose_targets(
    n_genes: int, generator: np.random.Generator, *, target_fraction: float = 0.2, hide_fraction: float = 0.8
) -> tuple[np.ndarray, np.ndarray]:
    """Choose among the genes of one cell.

    Returns
    -------
    Two boolean arrays (n_genes,): the ``int(target_fraction * n)`` genes whose value is asked for, and the
    ``int(hide_fraction * targets)`` of them whose value is hidden; the others stay visible.
    """
    n_targets = int(target_fraction * n_genes)
    chosen = generator.permutation(n_genes)[:n_targets]
    target, hidden = np.zeros(n_genes, bool), np.zeros(n_genes, bool)
    target[chosen] = True
    hidden[chosen[: int(hide_fraction * n_targets)]] = True
    return target, hidden
