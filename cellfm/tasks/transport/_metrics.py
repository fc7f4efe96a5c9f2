"""Compare predicted and observed cells: their means, and their distributions."""

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from cellfm.tasks._expression import correlation, top_changed

N_TOP = 50
"""Number of most changed genes that are scored separately."""
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Widths of the kernels of `mmd`, relative to the median distance between observed cells."""
MAX_CELLS = 1000
"""Maximum number of cells of either side that `mmd` compares."""


def mmd(predicted: np.ndarray, observed: np.ndarray, *, random_state: int = 0) -> float:
    """Squared maximum mean discrepancy (Gretton 2012, eq. 3), the mean of Gaussian kernels of several widths.

    0 in expectation for equal distributions (the estimate may be negative), 2 at most.
    """
    x, y = (_some(cells, random_state) for cells in (predicted, observed))
    xx, yy, xy = cdist(x, x, "sqeuclidean"), cdist(y, y, "sqeuclidean"), cdist(x, y, "sqeuclidean")
    median = max(float(np.median(yy[np.triu_indices(len(y), 1)])), 1e-12)
    found = 0.0
    for width in WIDTHS:
        kxx, kyy, kxy = (np.exp(-square / (2 * width**2 * median)) for square in (xx, yy, xy))
        within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kxx, kyy)]
        found += within[0] + within[1] - 2 * kxy.mean()
    return float(found / len(WIDTHS))


def most_changed(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The genes by which target cells differ most from source cells, by number."""
    parts = [(cells.mean(0), cells.var(0, ddof=1), len(cells)) for cells in (target, source)]
    return top_changed(*parts[0], parts[1], N_TOP)


def score_cells(
    predicted: np.ndarray, observed: np.ndarray, source: np.ndarray, *, random_state: int = 0
) -> dict[str, float]:
    """Compare predicted with observed cells.

    Parameters
    ----------
    predicted, observed, source
        (n, n_genes), (m, n_genes) and (n, n_genes) log-normalised expression.

    Returns
    -------
    Of the mean profiles: ``l2``, ``pearson`` (high whatever is predicted), ``r2`` (share of explained variance over
    genes, at most 1, negative if worse than the mean over genes) and ``pearson_change`` (of the changes against
    `source`, 0 where none is predicted); of the cells: ``mmd``. Each over all genes, and over the 50 most changed ones
    with the ending ``_top50``.
    """
    row = {}
    top = most_changed(source, observed)
    for ending, genes in (("", slice(None)), ("_top50", top)):
        p, o, s = predicted[:, genes], observed[:, genes], source[:, genes]
        pm, om, sm = (cells.mean(0, dtype=np.float64) for cells in (p, o, s))
        row[f"l2{ending}"] = float(np.linalg.norm(pm - om))
        row[f"pearson{ending}"] = correlation(pm, om)
        row[f"r2{ending}"] = float(1 - ((pm - om) ** 2).sum() / max(((om - om.mean()) ** 2).sum(), 1e-12))
        row[f"pearson_change{ending}"] = correlation(pm - sm, om - sm)
        row[f"mmd{ending}"] = mmd(p, o, random_state=random_state)
    return row


def evaluate(
    predictions: dict[str, np.ndarray], observed: np.ndarray, source: np.ndarray, *, random_state: int = 0
) -> pd.DataFrame:
    """`score_cells` of several methods: a row for each, with ``n_source`` and ``n_target`` cells."""
    rows = [
        {"method": name, "n_source": len(source), "n_target": len(observed)}
        | score_cells(predicted, observed, source, random_state=random_state)
        for name, predicted in predictions.items()
    ]
    return pd.DataFrame(rows)


def _some(cells: np.ndarray, random_state: int) -> np.ndarray:
    if len(cells) <= MAX_CELLS:
        return cells
    return cells[np.random.default_rng(random_state).choice(len(cells), MAX_CELLS, replace=False)]
