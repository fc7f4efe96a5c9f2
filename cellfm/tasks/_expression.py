"""Log-normalised expression, the genes that change most, and correlation, as several tasks need them."""

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from cellfm.cells.counts import require_counts
from cellfm.cells.matrix import read_matrix, require_features
from cellfm.errors import InputError
from cellfm.io.messages import warn

N_TOP = 20
"""Number of most changed genes of a condition that are scored separately."""


def read_expression(adata: AnnData, layer: str | None) -> sp.csr_matrix:
    """log1p of counts per 10,000, (n_cells, n_genes) float32: computed from counts, or unchanged if the data are
    log-normalised.

    Raises
    ------
    InputError
        No human genes, negative values, values that are not finite, fractions without logarithm, or nothing.
    MissingKeyError
        No such layer.
    """
    matrix = read_matrix(adata, layer)
    require_features(matrix)
    if matrix.features.note:
        warn(matrix.features.note)
    found = matrix.describe()
    if found.kind not in ("counts", "log-normalised"):
        raise InputError(
            f"Expected counts or log-normalised expression, but {matrix.name} has {found}. Pass layer= with either."
        )
    if found.kind == "counts":
        matrix = require_counts(matrix, adata)
    values = matrix.rows(0, matrix.n_cells).astype(np.float32)
    return log_normalised(values) if found.kind == "counts" else values


def log_normalised(counts: sp.csr_matrix) -> sp.csr_matrix:
    """log1p of counts per 10,000."""
    depth = np.asarray(counts.sum(1)).ravel()
    return sp.csr_matrix(sp.diags(1e4 / np.maximum(depth, 1)) @ counts, dtype=np.float32).log1p()


def top_changed(
    mean: np.ndarray,
    variance: np.ndarray,
    n_cells: int,
    control: tuple[np.ndarray, np.ndarray, int],
    n_top: int = N_TOP,
) -> np.ndarray:
    """The genes of a condition that differ most from control by Welch's t, the largest first.

    Parameters
    ----------
    mean, variance
        (n_genes,) of the condition's `n_cells` cells; `control` is the same three of the control cells.
    """
    mean0, variance0, n0 = control
    spread = np.sqrt(variance / max(n_cells, 1) + variance0 / max(n0, 1))
    t = np.abs(mean - mean0) / np.maximum(spread, 1e-9)
    return np.argsort(-t, kind="stable")[:n_top]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; 0 where one of the two is constant."""
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norm) if norm > 1e-12 else 0.0
