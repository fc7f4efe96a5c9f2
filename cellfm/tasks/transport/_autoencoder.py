"""An autoencoder from cell embeddings through 50 dimensions to expression: d-512-50, 50-512-genes."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from cellfm.engines import apply, fit, shuffled
from cellfm.tasks.transport._recipe import Recipe

WIDTH = 512
"""Width of the hidden layer on either side."""
MAX_EPOCHS = 300
PATIENCE = 20
"""Number of epochs without improvement on validation cells after which training stops."""
BATCH = 128
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2
LAYERS = ("into.0", "into.1", "out.0", "out.1")

Weights = dict[str, Any]


def encode(xp: SimpleNamespace, weights: Weights, x: Any) -> Any:
    """Latent cells, (n, d) standardised embeddings -> (n, n_components)."""
    return _dense(weights, "into.1", xp.relu(_dense(weights, "into.0", x)))


def decode(xp: SimpleNamespace, weights: Weights, z: Any) -> Any:
    """Expression, (n, n_components) -> (n, n_genes)."""
    return _dense(weights, "out.1", xp.relu(_dense(weights, "out.0", z)))


def train_autoencoder(
    x: np.ndarray, values: np.ndarray, held_out: np.ndarray, recipe: Recipe
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Learn to predict expression from embeddings through a narrow layer; keep the best epoch by validation.

    Parameters
    ----------
    x
        (n, d) standardised embeddings.
    values
        (n, n_genes) log-normalised expression.
    held_out
        (n,) bool: validation cells.

    Returns
    -------
    The weights, and a row for the start and each epoch: mean squared errors of training and validation.
    """
    sizes = (x.shape[1], WIDTH, recipe.n_components, WIDTH, values.shape[1])
    training, validation = (x[~held_out], values[~held_out]), (x[held_out], values[held_out])
    batch, n_batches = shuffled(len(training[0]), BATCH, recipe.random_state)
    weights, rows = fit(
        _loss,
        _draw(sizes, training[1].mean(0), np.random.default_rng(recipe.random_state)),
        batch,
        data=training,
        steps=MAX_EPOCHS * n_batches,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        validate=lambda weights: apply(_error, weights, *validation),
        every=n_batches,
        patience=PATIENCE,
        label="autoencoder",
    )
    return weights, pd.DataFrame(rows).rename_axis("epoch").drop(columns="step").reset_index()


def _loss(xp: SimpleNamespace, weights: Weights, x: Any, values: Any, rows: Any) -> Any:
    return _error(xp, weights, x[rows], values[rows])


def _error(xp: SimpleNamespace, weights: Weights, x: Any, values: Any) -> Any:
    return ((decode(xp, weights, encode(xp, weights, x)) - values) ** 2).mean()


def _draw(sizes: tuple[int, ...], mean: np.ndarray, generator: np.random.Generator) -> Weights:
    """A normal start; the last layer starts at the mean of the training cells."""
    weights: Weights = {}
    for name, (before, after) in zip(LAYERS, pairwise(sizes), strict=True):
        drawn = generator.standard_normal((before, after), np.float32)
        weights |= {f"{name}.weight": drawn / np.float32(np.sqrt(before)), f"{name}.bias": np.zeros(after, np.float32)}
    return weights | {"out.1.bias": np.asarray(mean, np.float32)}


def _dense(weights: Weights, name: str, x: Any) -> Any:
    return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]
