"""Label cells by a vote of the nearest reference cells in the embedding, without training."""

from dataclasses import dataclass

import numpy as np

from cellfm.tasks.annotation._calibrate import fit_thresholds
from cellfm.tasks.annotation._hold_out import hold_out
from cellfm.tasks.annotation._prediction import Prediction
from cellfm.tasks.annotation._reject import Reference

N_NEIGHBORS = 15
HELD_OUT = 0.15
"""Share of the reference cells whose distance from the others defines the threshold."""
_BLOCK = 1024  # number of cells compared with the whole reference at once


@dataclass(frozen=True)
class NeighborVote:
    """Reference cells that vote on the labels of other cells."""

    embedding: np.ndarray
    """(n_reference, d) float32, each of length 1."""
    codes: np.ndarray
    """(n_reference,) int64: class of each reference cell."""
    classes: tuple[str, ...]
    n_neighbors: int
    reference: Reference
    """Position of each class, for the distance."""
    confidence_threshold: float
    distance_threshold: float

    def predict(self, embedding: np.ndarray) -> Prediction:
        """Predict the classes of cells from their embedding (n_cells, d).

        The probability of a class is its share of the votes of the `n_neighbors` nearest reference cells by cosine,
        each weighted by its cosine. The distance is that to the nearest class, as for an annotator; it detects unknown
        types better than the cosine to the neighbours does. Both are NaN for cells without an embedding.
        """
        embedding = np.asarray(embedding, np.float32)
        votes = _vote(embedding, self.embedding, self.codes, len(self.classes), self.n_neighbors, leave_out_self=False)
        return Prediction.of(votes, embedding, self.reference)


def fit_neighbor_vote(embedding: np.ndarray, labels: np.ndarray, n_neighbors: int = N_NEIGHBORS) -> NeighborVote:
    """Choose the thresholds as for an annotator: reference cells vote on each other, and some are held out.

    Parameters
    ----------
    embedding
        (n_reference, d) float, finite.
    labels
        (n_reference,) str.
    n_neighbors
        Number of cells that vote; at most all others.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    embedding = np.asarray(embedding, np.float32)
    unit = _unit(embedding)
    n_neighbors = min(n_neighbors, len(unit) - 1)
    votes = _vote(embedding, unit, codes, len(classes), n_neighbors, leave_out_self=True)
    held_out = hold_out(codes, HELD_OUT)
    others = Reference.of(embedding[~held_out], codes[~held_out], len(classes))
    confidence, distance = fit_thresholds(votes.max(1)[held_out], others.distance(embedding[held_out]))
    return NeighborVote(
        embedding=unit,
        codes=codes,
        classes=tuple(map(str, classes)),
        n_neighbors=n_neighbors,
        reference=Reference.of(embedding, codes, len(classes)),
        confidence_threshold=confidence,
        distance_threshold=distance,
    )


def _unit(embedding: np.ndarray) -> np.ndarray:
    return embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)


def _vote(
    embedding: np.ndarray,
    reference: np.ndarray,
    codes: np.ndarray,
    n_classes: int,
    n_neighbors: int,
    *,
    leave_out_self: bool,
) -> np.ndarray:
    """(n_cells, n_classes) float32: shares of the votes. `leave_out_self`: the cells are the reference."""
    cells = _unit(embedding)
    probabilities = np.zeros((len(cells), n_classes), np.float32)
    for start in range(0, len(cells), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(cells)))
        cosine = cells[block] @ reference.T  # (block, n_reference)
        rows = np.arange(len(cosine))
        if leave_out_self:
            cosine[rows, start + rows] = -np.inf
        nearest = np.argpartition(-cosine, n_neighbors - 1, axis=1)[:, :n_neighbors]
        weights = np.maximum(np.take_along_axis(cosine, nearest, 1), 1e-6)  # (block, n_neighbors)
        np.add.at(probabilities[block], (rows[:, None], codes[nearest]), weights / weights.sum(1, keepdims=True))
    probabilities[np.isnan(cells[:, 0])] = np.nan
    return np.minimum(probabilities, 1)
