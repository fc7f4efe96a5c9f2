"""How far a cell is from the reference: Mahalanobis distance to the nearest class in the embedding."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from cellfm.tasks.annotation._mlp import spread_of

SHRINKAGE = 0.8
"""Weight of the sphere in the covariance within classes (Ledoit and Wolf 2004): measured best at finding a
type that the reference lacks."""
LEAST_CELLS_OF_A_CLASS = 20
"""Cells of a query that must look like a class before its displacement is estimated."""
MOST_BESIDE_OTHERS = 1.5
"""How many times as far as the least displaced other class a class may be displaced for this to pass for a shift of
the whole query."""
MOST_SPREAD = 1.3
MOST_WIDENED = 1.5
"""A threshold is at most this many times the one chosen on the reference: where cells lie farther off than that, their
labels are doubtful too. The three were chosen on nine pairs of studies and tested on others (benchmarks/annotation.md).
"""
_LEAST = 1e-6


@dataclass(frozen=True)
class Reference:
    """Where the classes of a reference lie, in a space where all spread alike (Lee 2018), the median cell 1 off."""

    mean: np.ndarray
    """(d,) float32: mean of the embedding."""
    whiten: np.ndarray
    """(d, d) float32: from the centred embedding to that space."""
    centres: np.ndarray
    """(n_classes, d) float32: mean of each class, there."""

    @classmethod
    def of(cls, embedding: np.ndarray, kind: np.ndarray, n_classes: int) -> "Reference":
        """From the embeddings (n, d) and classes (n,) of labelled cells."""
        mean, scale = embedding.mean(0), spread_of(embedding)
        x = (embedding - mean) / scale
        centres = np.stack([x[kind == i].mean(0) for i in range(n_classes)])
        within = x - centres[kind]
        covariance = within.T @ within / len(x)
        d = len(covariance)
        sphere = max(np.trace(covariance) / d, _LEAST)
        # The inverse of the Cholesky factor whitens as eigenvectors do, up to a rotation, in a tenth of the time.
        factor = np.linalg.cholesky((1 - SHRINKAGE) * covariance + SHRINKAGE * sphere * np.eye(d))
        whiten = solve_triangular(factor, np.eye(d), lower=True).T
        usual = np.sqrt(np.median(_square_to_nearest(x @ whiten, centres @ whiten)))
        whiten /= max(usual, _LEAST)
        return cls(
            mean.astype(np.float32),
            (whiten / scale[:, None]).astype(np.float32),
            (centres @ whiten).astype(np.float32),
        )

    def distance(self, embedding: np.ndarray) -> np.ndarray:
        """(n,) float32: distance to the nearest class; 1 is the median of the reference's own cells."""
        return np.sqrt(_square_to_nearest(self._whitened(embedding), self.centres))

    def place(self, embedding: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, "BatchShift"]:
        """The distances of cells, and how those with the most probable classes `codes` (n,) are displaced from them."""
        whitened = self._whitened(embedding)
        return np.sqrt(_square_to_nearest(whitened, self.centres)), BatchShift.of(whitened, codes, self.centres)

    def _whitened(self, embedding: np.ndarray) -> np.ndarray:
        return (embedding - self.mean) @ self.whiten


@dataclass(frozen=True)
class BatchShift:
    """Where the cells of a query lie, beside the classes of the reference that they look like.

    Cells of another study are displaced in the embedding, some classes more than others, and may spread more. A cell
    type that the reference lacks is displaced too, but much farther than the types that it has.
    """

    displacement: np.ndarray
    """(n_classes,): from the centre of a class to the median of the query's cells of this class; NaN for fewer than
    `LEAST_CELLS_OF_A_CLASS` cells. The median cell of the reference is 1 from its centre."""
    spread: np.ndarray
    """(n_classes,): median distance of these cells from their median; NaN as above."""

    @classmethod
    def of(cls, whitened: np.ndarray, codes: np.ndarray, centres: np.ndarray) -> "BatchShift":
        """From cells (n, d) and centres (n_classes, d) in the whitened space and the most probable class of each cell.

        The code -1 stands for cells that have no class.
        """
        displacement, spread = np.full(len(centres), np.nan), np.full(len(centres), np.nan)
        for i, centre in enumerate(centres):
            cells = whitened[codes == i]
            if len(cells) >= LEAST_CELLS_OF_A_CLASS:
                middle = np.median(cells, 0)
                displacement[i] = np.linalg.norm(middle - centre)
                spread[i] = np.median(np.linalg.norm(cells - middle, axis=1))
        return cls(displacement, spread)

    def thresholds(self, distance_threshold: float) -> np.ndarray:
        """(n_classes,) thresholds for the query, from the one that was chosen on the reference's own cells.

        The displacement of a class adds to the threshold as the side of a right triangle does: displacement and spread
        of the cells are perpendicular to each other in so many dimensions. It counts up to `MOST_BESIDE_OTHERS` times
        the least displacement of the other classes; classes with few cells get the least that counts. The spread is
        that of the class where it is least. With fewer than two classes that have `LEAST_CELLS_OF_A_CLASS` cells,
        nothing tells a shift from a new type, and the threshold stays.
        """
        n_classes = len(self.displacement)
        shifted = np.flatnonzero(np.isfinite(self.displacement))
        if len(shifted) < 2:
            return np.full(n_classes, distance_threshold)
        allowed = np.full(n_classes, np.nan)
        for i in shifted:
            others = self.displacement[shifted[shifted != i]]
            allowed[i] = min(self.displacement[i], MOST_BESIDE_OTHERS * others.min())
        allowed = np.where(np.isfinite(allowed), allowed, np.nanmin(allowed))
        spread = np.clip(np.nanmin(self.spread), 1, MOST_SPREAD)
        widened = np.sqrt((spread * distance_threshold) ** 2 + allowed**2)
        return np.clip(widened, distance_threshold, MOST_WIDENED * distance_threshold)


def _square_to_nearest(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(n,) squared distance to the nearest of the centres."""
    return np.min([((x - centre) ** 2).sum(1) for centre in centres], axis=0)
