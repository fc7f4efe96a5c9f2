"""Fits an annotator: reference cells with labels to a classifier on a model."""

from typing import Literal

import numpy as np

from cellfm._encode import CellInput
from cellfm.model import CellFM
from cellfm.tasks.annotation._annotator import Annotator

Method = Literal["frozen", "lora", "full"]
Head = Literal["mlp", "query"]


def train_annotator(
    model: CellFM,
    cells: CellInput,
    labels: np.ndarray,
    *,
    method: Method = "frozen",
    head: Head = "mlp",
    n_layers: int = 1,
    embedding: np.ndarray | None = None,
    validation_fraction: float = 0.15,
    class_weight: Literal["balanced"] | None = "balanced",
    lora_rank: int = 16,
    n_epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    patience: int | None = None,
    random_state: int = 0,
) -> Annotator:
    """Fit an annotator; `labels` (n_cells,) str, None or "" where unknown (left out); see `cf.tl.fit_annotator`."""
    raise NotImplementedError
