"""How far a cell is from the reference: Mahalanobis distance to the nearest class in the embedding."""

from dataclasses import dataclass

import numpy as np

from cellfm.tasks.annotation._mlp import spread_of

SHRINKAGE = 0.8
"""Weight of the sphere in the covariance within classes (Ledoit and Wolf 2004): measured best at finding a
type that the reference lacks."""
LEAST_CELLS_OF_A_CLASS = 20
"""Cells of a query that must look like a class before it says anything of how far they lie from it."""
MOST_SHIFT = 1.3
"""Beyond it labels themselves are doubtful: of the studies that were compared, that which lies farther off than 1.2 had
half of its labels wrong (benchmarks/annotation.md)."""
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
        spread, directions = np.linalg.eigh((1 - SHRINKAGE) * covariance + SHRINKAGE * sphere * np.eye(d))
        whiten = directions / np.sqrt(spread)
        usual = np.sqrt(np.median(_square_to_nearest(x @ whiten, centres @ whiten)))
        whiten /= max(usual, _LEAST)
        return cls(
            mean.astype(np.float32),
            (whiten / scale[:, None]).astype(np.float32),
            (centres @ whiten).astype(np.float32),
        )

    def distance(self, embedding: np.ndarray) -> np.ndarray:
        """(n,) float32: distance to the nearest class; 1 is the median of the reference's own cells."""
        return np.sqrt(_square_to_nearest((embedding - self.mean) @ self.whiten, self.centres))


def shift_of(distance: np.ndarray, codes: np.ndarray) -> float:
    """How many times farther than usual all cells of a query lie, as those of another study do: 1 to `MOST_SHIFT`.

    The median distance of the cells that look like one class is taken, of the class where it is least: a type that the
    reference lacks lies far off too, but does not move the cells of the others. A query of which fewer than two classes
    have `LEAST_CELLS_OF_A_CLASS` cells says nothing of this.

    Parameters
    ----------
    distance, codes
        (n_cells,) distance to the nearest class and most probable class; -1 for cells that have none.
    """
    there = codes >= 0
    of_class = [distance[codes == i] for i in np.unique(codes[there])]
    medians = [float(np.median(own)) for own in of_class if len(own) >= LEAST_CELLS_OF_A_CLASS]
    return float(np.clip(min(medians), 1, MOST_SHIFT)) if len(medians) > 1 else 1.0


def _square_to_nearest(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(n,) squared distance to the nearest of the centres."""
    return np.min([((x - centre) ** 2).sum(1) for centre in centres], axis=0)
