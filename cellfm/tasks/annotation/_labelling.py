"""Labels of cells as tools write them, with `"Unknown"` for rejected cells, confidence and distance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cellfm.io.messages import counted_of, warn
from cellfm.keys import ANNOTATION, UNKNOWN
from cellfm.tasks.annotation._labels import UNKNOWN_COLOR
from cellfm.tasks.annotation._prediction import Prediction, Rejection


@dataclass(frozen=True)
class Labelling:
    """Predictions of a classifier after rejection."""

    prediction: Prediction
    rejection: Rejection
    classes: tuple[str, ...]
    confidence_threshold: float
    distance_threshold: float

    @classmethod
    def of(
        cls, prediction: Prediction, classes: tuple[str, ...], thresholds: tuple[float, float], *, inflate: bool
    ) -> "Labelling":
        """Reject cells with low confidence or large distance; warn about cells without genes and classes that lose most
        cells.

        Parameters
        ----------
        thresholds
            Of confidence and of distance.
        inflate
            Whether to raise the distance threshold by the shift of the query from the reference.
        """
        rejection = prediction.reject(*thresholds, inflate_distances=inflate)
        if n_empty := int(np.isnan(prediction.distance).sum()):
            cells = counted_of(n_empty, len(prediction.distance), "cell", "expresses", "express")
            warn(f"{cells} no gene that is used: labelled {UNKNOWN!r}.")
        rejection.warn(classes)
        return cls(prediction, rejection, classes, *map(float, thresholds))

    @property
    def labels(self) -> np.ndarray:
        """(n_cells,) object."""
        return self.rejection.labels(self.classes)

    def results(self, labels: np.ndarray, colors: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The values for each slot of AnnData, with labels and colours of the classes."""
        names = [*self.classes, UNKNOWN]
        return {
            "obs": {
                ANNOTATION.raw: pd.Categorical.from_codes(self.prediction.codes, pd.Index(names[:-1])),
                ANNOTATION.label: pd.Categorical(labels, names),
                ANNOTATION.confidence: self.prediction.confidence,
                ANNOTATION.distance: self.prediction.distance,
            },
            "obsm": {ANNOTATION.proba: self.prediction.probabilities},
            "uns": {
                f"{ANNOTATION.raw}_colors": list(colors),
                f"{ANNOTATION.label}_colors": [*colors, UNKNOWN_COLOR],
            },
        }

    def facts(self) -> dict[str, Any]:
        """The facts about classes and thresholds for the record of a run."""
        return {
            ANNOTATION.classes: np.array(self.classes, dtype=object),
            "confidence_threshold": self.confidence_threshold,
            "distance_threshold": self.distance_threshold,
            "distance_thresholds": self.rejection.distance_thresholds,
        }
