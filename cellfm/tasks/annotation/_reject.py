"""How far a cell is from the reference: Mahalanobis distance to the nearest class in the embedding."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from cellfm.tasks.annotation._mlp import spread_of

SHRINKAGE = 0.8
"""Weight of the sphere in the covariance within classes (Ledoit and Wolf 2004). This value was best at detecting a type
that the reference lacks."""
MIN_CELLS_OF_A_CLASS = 20
"""Minimum number of query cells of a class for which a displacement is estimated."""
MAX_RATIO_TO_OTHERS = 1.5
"""A displacement counts as a shift of the whole query up to this multiple of the smallest displacement of the other
classes."""
MAX_SPREAD = 1.3
MAX_INFLATION = 1.5
"""Maximum ratio of a threshold to the one chosen on the reference: the labels of cells beyond it are doubtful, too. The
three values were chosen on nine pairs of studies and tested on others (benchmarks/annotation.md).
"""
_EPSILON = 1e-6


@dataclass(frozen=True)
class Reference:
    """Centres of the classes in a whitened space (Lee 2018), scaled so that the median cell is 1 from its centre."""

    mean: np.ndarray
    """(d,) float32: mean of the embedding."""
    whiten: np.ndarray
    """(d, d) float32: from the centred embedding to the whitened space."""
    centres: np.ndarray
    """(n_classes, d) float32: mean of each class in the whitened space."""

    @classmethod
    def of(cls, embedding: np.ndarray, codes: np.ndarray, n_classes: int) -> "Reference":
        """From the embeddings (n, d) and classes (n,) of labelled cells."""
        mean, scale = embedding.mean(0), spread_of(embedding)
        x = (embedding - mean) / scale
        centres = np.stack([x[codes == i].mean(0) for i in range(n_classes)])
        within = x - centres[codes]
        covariance = within.T @ within / len(x)
        d = len(covariance)
        sphere = max(np.trace(covariance) / d, _EPSILON)
        # The inverse of the Cholesky factor whitens as eigenvectors do, up to a rotation, in a tenth of the time.
        factor = np.linalg.cholesky((1 - SHRINKAGE) * covariance + SHRINKAGE * sphere * np.eye(d))
        whiten = solve_triangular(factor, np.eye(d), lower=True).T
        median = np.sqrt(np.median(_square_to_nearest(x @ whiten, centres @ whiten)))
        whiten /= max(median, _EPSILON)
        return cls(
            mean.astype(np.float32),
            (whiten / scale[:, None]).astype(np.float32),
            (centres @ whiten).astype(np.float32),
        )

    def distance(self, embedding: np.ndarray) -> np.ndarray:
        """(n,) float32: distance to the nearest class; 1 is the median distance of the reference cells."""
        return np.sqrt(_square_to_nearest(self._whitened(embedding), self.centres))

    def place(self, embedding: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, "BatchShift"]:
        """The distances of cells, and how they are displaced from their most probable classes `codes` (n,)."""
        whitened = self._whitened(embedding)
        return np.sqrt(_square_to_nearest(whitened, self.centres)), BatchShift.of(whitened, codes, self.centres)

    def _whitened(self, embedding: np.ndarray) -> np.ndarray:
        return (embedding - self.mean) @ self.whiten


@dataclass(frozen=True)
class BatchShift:
    """How the cells of a query are displaced from the classes of the reference that they resemble.

    Cells of another study are displaced in the embedding, some classes more than others, and may spread more. A cell
    type that the reference lacks is displaced, too, but much farther than known types.
    """

    displacement: np.ndarray
    """(n_classes,): distance from the centre of a class to the median of the query cells of this class; NaN for fewer
    than `MIN_CELLS_OF_A_CLASS` cells."""
    spread: np.ndarray
    """(n_classes,): median distance of these cells from their median; NaN as above."""

    @classmethod
    def of(cls, whitened: np.ndarray, codes: np.ndarray, centres: np.ndarray) -> "BatchShift":
        """From cells (n, d) and centres (n_classes, d) in the whitened space and the most probable class of each cell.

        Cells without a class have the code -1.
        """
        displacement, spread = np.full(len(centres), np.nan), np.full(len(centres), np.nan)
        for i, centre in enumerate(centres):
            cells = whitened[codes == i]
            if len(cells) >= MIN_CELLS_OF_A_CLASS:
                middle = np.median(cells, 0)
                displacement[i] = np.linalg.norm(middle - centre)
                spread[i] = np.median(np.linalg.norm(cells - middle, axis=1))
        return cls(displacement, spread)

    def thresholds(self, distance_threshold: float) -> np.ndarray:
        """(n_classes,) distance thresholds for the query, from the one that was chosen on the reference.

        The displacement of a class and the threshold add up as the sides of a right triangle: in so many dimensions,
        the displacement of cells is perpendicular to their spread. The displacement counts up to
        `MAX_RATIO_TO_OTHERS` times the smallest displacement of the other classes. Classes with few cells get the
        smallest displacement that counts. The spread is the smallest of all classes. With fewer than two classes of
        `MIN_CELLS_OF_A_CLASS` cells, a shift cannot be told from a new type, and the threshold stays as it is.
        """
        n_classes = len(self.displacement)
        shifted = np.flatnonzero(np.isfinite(self.displacement))
        if len(shifted) < 2:
            return np.full(n_classes, distance_threshold)
        allowed = np.full(n_classes, np.nan)
        for i in shifted:
            others = self.displacement[shifted[shifted != i]]
            allowed[i] = min(self.displacement[i], MAX_RATIO_TO_OTHERS * others.min())
        allowed = np.where(np.isfinite(allowed), allowed, np.nanmin(allowed))
        spread = np.clip(np.nanmin(self.spread), 1, MAX_SPREAD)
        inflated = np.sqrt((spread * distance_threshold) ** 2 + allowed**2)
        return np.clip(inflated, distance_threshold, MAX_INFLATION * distance_threshold)


def _square_to_nearest(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(n,) squared distance to the nearest centre."""
    return np.min([((x - centre) ** 2).sum(1) for centre in centres], axis=0)
