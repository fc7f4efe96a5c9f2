"""A fitted annotator: cells to cell types, with how sure it is of them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfm._encode import CellInput
from cellfm.model import CellFM


@dataclass(frozen=True)
class Prediction:
    """What an annotator says of some cells."""

    probabilities: np.ndarray
    """(n_cells, n_classes) float32: calibrated; NaN for cells without any known gene."""
    distance: np.ndarray
    """(n_cells,) float32: how far the cell is from the reference."""

    @property
    def confidence(self) -> np.ndarray:
        """(n_cells,) float32: probability of the most probable class."""
        return self.probabilities.max(1)


@dataclass(frozen=True)
class Annotator:
    """A classifier of cell types on a model; made by `cf.tl.fit_annotator`."""

    model: CellFM
    classes: tuple[str, ...]
    method: str
    history: pd.DataFrame
    confidence_threshold: float
    distance_threshold: float

    def predict_cells(
        self, cells: CellInput, *, embedding: np.ndarray | None = None, batch_size: int | None = None
    ) -> Prediction:
        """Probabilities, confidence and distance of cells; `embedding`: their CLS embedding by `self.model`, if there."""
        raise NotImplementedError

    def predict(self, adata: AnnData, *, layer: str | None = None) -> pd.DataFrame:
        """Labels of the cells of a table: columns label, raw, confidence, distance."""
        raise NotImplementedError

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        raise NotImplementedError

    @classmethod
    def load(cls, path: str | Path, model: str | Path | CellFM | None = None) -> "Annotator":
        raise NotImplementedError
