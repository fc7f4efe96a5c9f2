"""Log-normalised expression, and its mean and variance by condition."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from cellfm._adata import read_matrix, require_features, warn
from cellfm._counts import require_counts
from cellfm.errors import InputError
from cellfm.tasks.genes import log_normalised
from cellfm.tasks.perturbation._conditions import Condition, Conditions
from cellfm.tasks.perturbation._metrics import top_changed


@dataclass(frozen=True)
class Profiles:
    """Conditions as mean expression, control first."""

    conditions: tuple[Condition, ...]
    mean: np.ndarray
    """(n_conditions, n_genes) float32: mean log1p of counts per 10,000."""
    variance: np.ndarray
    """(n_conditions, n_genes) float32, over cells."""
    n_cells: np.ndarray
    """(n_conditions,) int."""

    @property
    def control(self) -> np.ndarray:
        """(n_genes,) mean of the control cells."""
        return self.mean[0]

    def rows(self, conditions: tuple[Condition, ...]) -> list[int]:
        place = {condition: i for i, condition in enumerate(self.conditions)}
        return [place[condition] for condition in conditions]

    def means(self, conditions: tuple[Condition, ...]) -> np.ndarray:
        """(n, n_genes) mean profiles."""
        return self.mean[self.rows(conditions)]

    def changes(self, conditions: tuple[Condition, ...]) -> np.ndarray:
        """(n, n_genes) differences from control."""
        return self.means(conditions) - self.control

    def top(self, conditions: tuple[Condition, ...]) -> list[np.ndarray]:
        """The most changed genes of each condition, by number."""
        control = (self.mean[0], self.variance[0], int(self.n_cells[0]))
        return [
            top_changed(self.mean[i], self.variance[i], int(self.n_cells[i]), control) for i in self.rows(conditions)
        ]


def read_expression(adata: AnnData, layer: str | None) -> sp.csr_matrix:
    """log1p of counts per 10,000, (n_cells, n_genes) float32: from counts, or as it is where it is there already.

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


def mean_profiles(values: sp.csr_matrix, conditions: Conditions) -> Profiles:
    """Mean and variance of each gene over the cells of each condition."""
    kept = np.flatnonzero(conditions.codes >= 0)
    n = len(conditions.conditions)
    size = np.bincount(conditions.codes[kept], minlength=n)
    pick = sp.csr_matrix((1 / size[conditions.codes[kept]], (conditions.codes[kept], kept)), (n, values.shape[0]))
    mean = np.asarray((pick @ values).todense())
    square = np.asarray((pick @ values.multiply(values)).todense())
    unbiased = size / np.maximum(size - 1, 1)
    variance = np.maximum(square - mean**2, 0) * unbiased[:, None]
    return Profiles(conditions.conditions, mean.astype(np.float32), variance.astype(np.float32), size)
