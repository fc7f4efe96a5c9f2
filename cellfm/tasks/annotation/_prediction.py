"""Predictions of a classifier, and the cells that are rejected for low confidence or large distance."""

from dataclasses import dataclass

import numpy as np

from cellfm.io.logging import logger
from cellfm.io.messages import warn
from cellfm.keys import UNKNOWN
from cellfm.tasks.annotation._reject import BatchShift, Reference


@dataclass(frozen=True)
class Rejection:
    """Cells that are labelled as unknown, and why."""

    codes: np.ndarray
    """(n_cells,) int64: number of the most probable class; -1 for cells without any known gene."""
    unsure: np.ndarray
    """(n_cells,) bool: below the confidence threshold."""
    far: np.ndarray
    """(n_cells,) bool: above the distance threshold of the class."""
    distance_thresholds: np.ndarray
    """(n_classes,) float64."""

    @property
    def rejected(self) -> np.ndarray:
        """(n_cells,) bool: rejected for either reason, or without any known gene."""
        return self.unsure | self.far | (self.codes < 0)

    def labels(self, classes: tuple[str, ...]) -> np.ndarray:
        """(n_cells,) object: the class, or ``"Unknown"`` where the cell is rejected."""
        return np.where(self.rejected, UNKNOWN, np.array([*classes, UNKNOWN], object)[self.codes])

    def warn(self, classes: tuple[str, ...]) -> None:
        """Name the classes that lose more than half of their cells, with numbers; a batch effect may be the cause."""
        n_classes = len(classes)

        def count(cells: np.ndarray) -> np.ndarray:
            return np.bincount(self.codes[cells & (self.codes >= 0)], minlength=n_classes)

        n_cells, n_lost, n_far = count(self.codes >= 0), count(self.rejected), count(self.far)
        lost = np.flatnonzero(n_lost > n_cells / 2)
        if not len(lost):
            return
        shown = "; ".join(f"{classes[i]}: {n_lost[i]:,} of {n_cells[i]:,} ({n_far[i]:,} by distance)" for i in lost)
        warn(
            f"More than half of the cells with these labels are rejected and become {UNKNOWN!r}: {shown}. They may be "
            "of a type that the reference lacks, or of a known type in another technology or study. In the second case "
            "pass distance_threshold=numpy.inf, confidence_threshold=0 or values in between, and look at the distance, "
            "the confidence and the raw label of each cell."
        )


@dataclass(frozen=True)
class Prediction:
    """Predictions of a classifier for some cells."""

    probabilities: np.ndarray
    """(n_cells, n_classes) float32: calibrated; NaN for cells without any known gene."""
    distance: np.ndarray
    """(n_cells,) float32: how far the cell is from the reference."""
    shift: BatchShift
    """How the cells are displaced from the classes that they resemble."""

    @classmethod
    def of(cls, probabilities: np.ndarray, embedding: np.ndarray, reference: Reference) -> "Prediction":
        """From the probabilities, the embedding (n_cells, d), and the classes of the reference."""
        return cls(probabilities, *reference.place(embedding, _codes(probabilities)))

    @property
    def confidence(self) -> np.ndarray:
        """(n_cells,) float32: probability of the most probable class."""
        return self.probabilities.max(1)

    @property
    def codes(self) -> np.ndarray:
        """(n_cells,) int64: number of the most probable class; -1 for cells without any known gene."""
        return _codes(self.probabilities)

    def reject(self, confidence_threshold: float, distance_threshold: float, *, inflate_distances: bool) -> Rejection:
        """Find the cells that are unknown.

        Parameters
        ----------
        inflate_distances
            Whether to raise the distance threshold by the shift of the query from the reference.
        """
        n_classes = self.probabilities.shape[1]
        thresholds = (
            self.shift.thresholds(distance_threshold)
            if inflate_distances
            else np.full(n_classes, float(distance_threshold))
        )
        if (thresholds > distance_threshold).any():
            logger.info(
                "the query is displaced from the reference: distance thresholds are %.2f to %.2f, not %.2f.",
                *(thresholds.min(), thresholds.max(), distance_threshold),
            )
        unsure = self.confidence < confidence_threshold
        return Rejection(self.codes, unsure, self.distance > thresholds[self.codes], thresholds)


def _codes(probabilities: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(probabilities).any(1), -1, np.nan_to_num(probabilities).argmax(1))
