"""Labels by vote of the nearest reference cells in the embedding; nothing is trained."""

from dataclasses import dataclass

import numpy as np

from cellfm.tasks.annotation._calibrate import fit_thresholds
from cellfm.tasks.annotation._hold_out import hold_out
from cellfm.tasks.annotation._prediction import Prediction
from cellfm.tasks.annotation._reject import Reference

N_NEIGHBORS = 15
HELD_OUT = 0.15
"""Share of the reference cells whose distance from the others sets the threshold."""
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
    reference: Reference
    """Where the classes lie, for the distance."""
    confidence_threshold: float
    distance_threshold: float

    def predict(self, embedding: np.ndarray) -> Prediction:
        """What the neighbours of other cells say, by their embedding (n_cells, d).

        Probability of a class: its share of the votes of the `n_neighbors` nearest reference cells by cosine, each
        with the weight of its cosine. Distance: from the nearest class, as that of an annotator; it finds strangers
        better than the cosine to the neighbours does. Both are NaN for cells without embedding.
        """
        embedding = np.asarray(embedding, np.float32)
        votes = _vote(embedding, self.embedding, self.codes, len(self.classes), self.n_neighbors, own=False)
        return Prediction.of(votes, embedding, self.reference)


def fit_neighbor_vote(embedding: np.ndarray, labels: np.ndarray, n_neighbors: int = N_NEIGHBORS) -> NeighborVote:
    """Choose the thresholds as for an annotator: reference cells vote on each other, some are kept from the classes.

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
    embedding = np.asarray(embedding, np.float32)
    unit = _unit(embedding)
    n_neighbors = min(n_neighbors, len(unit) - 1)
    votes = _vote(embedding, unit, codes, len(classes), n_neighbors, own=True)
    held = hold_out(codes, HELD_OUT)
    others = Reference.of(embedding[~held], codes[~held], len(classes))
    confidence, distance = fit_thresholds(votes.max(1)[held], others.distance(embedding[held]))
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
    embedding: np.ndarray, reference: np.ndarray, codes: np.ndarray, n_classes: int, n_neighbors: int, *, own: bool
) -> np.ndarray:
    """(n_cells, n_classes) float32: shares of the votes; `own`: the cells are those of the reference themselves."""
    cells = _unit(embedding)
    probabilities = np.zeros((len(cells), n_classes), np.float32)
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
    probabilities[np.isnan(cells[:, 0])] = np.nan
    return np.minimum(probabilities, 1)
