"""Labels by vote of the nearest reference cells in the embedding; nothing is trained."""

from dataclasses import dataclass

import numpy as np

from cellfm.tasks.annotation._annotator import Prediction

N_NEIGHBORS = 15
CONFIDENT = 0.05
"""Share of rightly labelled reference cells whose confidence is below the threshold."""
FAR = 0.01
"""Share of reference cells whose distance is above the threshold."""
_BLOCK = 1024  # cells compared with the whole reference at once


@dataclass(frozen=True)
class NeighborVote:
    """Reference cells that vote."""

    embedding: np.ndarray
    """(n_reference, d) float32, each of length 1."""
    codes: np.ndarray
    """(n_reference,) int64: class of each reference cell."""
    classes: tuple[str, ...]
    n_neighbors: int
    confidence_threshold: float
    distance_threshold: float

    def predict(self, embedding: np.ndarray) -> Prediction:
        """What the neighbours of other cells say, by their embedding (n_cells, d).

        Probability of a class: its share of the votes of the `n_neighbors` nearest reference cells by cosine, each
        with the weight of its cosine. Distance: 1 minus the mean cosine to them. Both NaN for cells without embedding.
        """
        return _vote(embedding, self.embedding, self.codes, len(self.classes), self.n_neighbors, own=False)


def fit_neighbor_vote(embedding: np.ndarray, labels: np.ndarray, n_neighbors: int = N_NEIGHBORS) -> NeighborVote:
    """Let reference cells vote on each other, each left out of its own vote, and choose the thresholds by that.

    Parameters
    ----------
    embedding
        (n_reference, d) float, finite.
    labels
        (n_reference,) str.
    n_neighbors
        Cells that vote; at most all others.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    unit = _unit(embedding)
    n_neighbors = min(n_neighbors, len(unit) - 1)
    own = _vote(embedding, unit, codes, len(classes), n_neighbors, own=True)
    right = own.confidence[own.probabilities.argmax(1) == codes]
    return NeighborVote(
        embedding=unit,
        codes=codes,
        classes=tuple(map(str, classes)),
        n_neighbors=n_neighbors,
        confidence_threshold=float(np.quantile(right, CONFIDENT)) if len(right) else 0.0,
        distance_threshold=float(np.quantile(own.distance, 1 - FAR)),
    )


def _unit(embedding: np.ndarray) -> np.ndarray:
    embedding = np.asarray(embedding, np.float32)
    return embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)


def _vote(
    embedding: np.ndarray, reference: np.ndarray, codes: np.ndarray, n_classes: int, n_neighbors: int, *, own: bool
) -> Prediction:
    """The votes for cells; `own`: the cells are the reference cells themselves, and do not vote on themselves."""
    cells = _unit(embedding)
    probabilities = np.zeros((len(cells), n_classes), np.float32)
    distance = np.empty(len(cells), np.float32)
    for start in range(0, len(cells), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(cells)))
        cosine = cells[block] @ reference.T  # (block, n_reference)
        rows = np.arange(len(cosine))
        if own:
            cosine[rows, start + rows] = -np.inf
        nearest = np.argpartition(-cosine, n_neighbors - 1, axis=1)[:, :n_neighbors]
        near = np.take_along_axis(cosine, nearest, 1)  # (block, n_neighbors)
        weights = np.maximum(near, 1e-6)
        np.add.at(probabilities[block], (rows[:, None], codes[nearest]), weights / weights.sum(1, keepdims=True))
        distance[block] = 1 - near.mean(1)
    probabilities[np.isnan(distance)] = np.nan
    return Prediction(np.minimum(probabilities, 1), distance)
