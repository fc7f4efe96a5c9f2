"""Train a classifier of cells: only the head, or the network as well."""

import numpy as np
import pandas as pd

from cellfm.cells.tokenize import TokenBatch
from cellfm.config import ModelConfig, TrainConfig
from cellfm.engines import Backend, Objective
from cellfm.model import CellFM
from cellfm.nn.classification import classification
from cellfm.nn.heads import query_head_weights
from cellfm.train._classify_feed import TokenBatches, chunks_at_once
from cellfm.train._finetune import Method, finetune

VALIDATIONS_PER_EPOCH = 2


def train_classifier(
    model: CellFM,
    tokens: TokenBatch,
    label: np.ndarray,
    weight: np.ndarray,
    held_out: np.ndarray,
    n_classes: int,
    *,
    head: dict[str, np.ndarray] | None,
    method: Method,
    lora_rank: int,
    n_epochs: int,
    batch_size: int,
    learning_rate: float,
    patience: int,
    random_state: int,
    backend: Backend = "auto",
) -> tuple[CellFM, dict[str, np.ndarray], pd.DataFrame]:
    """Train a head, and, depending on `method`, the model below it; keep the weights with the lowest validation loss.

    Parameters
    ----------
    tokens
        Of the labelled cells.
    label, weight, held_out
        (n_cells,) class of each cell, its weight (1 on average), and whether it is for validation.
    head
        Arrays of an MLP head to start from (`mean` and `scale` of CLS among them); None for a new query head.
    patience
        Number of validations without improvement after which training stops; there are two per epoch.

    Returns
    -------
    The model, the parameters of the head, and a row for each validation: step, training loss, validation loss.
    """
    n_chunks = chunks_at_once(tokens, model.config, batch_size)
    feed = TokenBatches(tokens, model.config, label, weight, held_out, batch_size, n_chunks, random_state)
    config = TrainConfig(
        steps=n_epochs * feed.steps_per_epoch,
        batch_size=batch_size,
        n_chunks=n_chunks,
        learning_rate=learning_rate,
        warmup_steps=min(10, feed.steps_per_epoch),
        final_rate=0.1,
        optimizer="adamw",
        weight_decay=0.01,
        clip="global",
        dropout=0.0,  # CLS is standardised, so a change of CLS can exceed the differences between cells
        validate_every=max(1, feed.steps_per_epoch // VALIDATIONS_PER_EPOCH),
        random_state=random_state,
    )
    tuned = finetune(
        model,
        feed,
        objective_of(model.config, head, n_classes, random_state),
        method=method,
        config=config,
        lora_rank=lora_rank,
        patience=patience,
        backend=backend,
    )
    weights = tuned.head | ({} if head is None else {name: head[name] for name in ("mean", "scale")})
    return model if method == "frozen" else tuned.model, weights, tuned.history


def objective_of(
    config: ModelConfig, head: dict[str, np.ndarray] | None, n_classes: int, random_state: int
) -> Objective:
    """The loss of an MLP head that starts from given arrays, or of a new query head."""
    if head is None:
        weights = query_head_weights(config, n_classes, random_state=random_state)
        return Objective(classification(config, with_queries=True), head=weights)
    trained = {name: array for name, array in head.items() if name not in ("mean", "scale")}
    fixed = {"mean": head["mean"].astype(np.float32), "inv_scale": (1 / head["scale"]).astype(np.float32)}
    return Objective(classification(config, with_queries=False), head=trained, fixed=fixed)
