"""Log-normalised expression, and its mean and variance by condition."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cellfm.tasks._expression import top_changed
from cellfm.tasks.perturbation._conditions import Condition, Conditions


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
