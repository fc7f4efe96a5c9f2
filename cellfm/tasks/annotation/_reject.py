"""How far a cell is from the reference: Mahalanobis distance to the nearest class in the embedding."""

from dataclasses import dataclass

import numpy as np

SHRINKAGE = 0.8
"""Weight of the sphere in the covariance within classes (Ledoit and Wolf 2004): measured best at finding a
type that the reference lacks."""
_LEAST = 1e-6


@dataclass(frozen=True)
class Reference:
    """Where the classes of a reference lie, in a space where all spread alike (Lee 2018)."""

    mean: np.ndarray
    """(d,) float32: mean of the embedding."""
    whiten: np.ndarray
    """(d, d) float32: from the centred embedding to that space."""
    centres: np.ndarray
    """(n_classes, d) float32: mean of each class, there."""

    @classmethod
    def of(cls, embedding: np.ndarray, kind: np.ndarray, n_classes: int) -> "Reference":
        """From the embeddings (n, d) and classes (n,) of labelled cells."""
        mean, scale = embedding.mean(0), embedding.std(0) + _LEAST
        x = (embedding - mean) / scale
        centres = np.stack([x[kind == i].mean(0) for i in range(n_classes)])
        within = x - centres[kind]
        covariance = within.T @ within / len(x)
        d = len(covariance)
        sphere = max(np.trace(covariance) / d, _LEAST)
        spread, directions = np.linalg.eigh((1 - SHRINKAGE) * covariance + SHRINKAGE * sphere * np.eye(d))
        whiten = directions / np.sqrt(spread * d)
        return cls(
            mean.astype(np.float32),
            (whiten / scale[:, None]).astype(np.float32),
            (centres @ whiten).astype(np.float32),
        )

    def distance(self, embedding: np.ndarray) -> np.ndarray:
        """(n,) float32: distance to the nearest class, about 1 for cells like those of the reference."""
        x = (embedding - self.mean) @ self.whiten
        return np.sqrt(np.min([((x - centre) ** 2).sum(1) for centre in self.centres], axis=0))
