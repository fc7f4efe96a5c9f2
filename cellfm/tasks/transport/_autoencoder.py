"""From the embedding of a cell to a few dimensions and on to its expression: d-512-50, 50-512-genes, in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from cellfm._progress import progress
from cellfm.tasks.transport._adam import AdamState, Arrays, adam_start, adam_step
from cellfm.tasks.transport._recipe import Recipe

WIDTH = 512
"""Of the hidden layer on either side."""
MAX_EPOCHS = 300
PATIENCE = 20
"""Epochs without improvement on the validation cells after which training stops."""
BATCH = 128
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2
LAYERS = ("into.0", "into.1", "out.0", "out.1")


def encode(weights: Arrays, x: jax.Array) -> jax.Array:
    """Latent cells, (n, d) standardised embeddings -> (n, n_components)."""
    return _dense(weights, "into.1", jax.nn.relu(_dense(weights, "into.0", x)))


def decode(weights: Arrays, z: jax.Array) -> jax.Array:
    """Expression, (n, n_components) -> (n, n_genes)."""
    return _dense(weights, "out.1", jax.nn.relu(_dense(weights, "out.0", z)))


def train_autoencoder(
    x: np.ndarray, values: np.ndarray, held_out: np.ndarray, recipe: Recipe
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Learn to tell expression from embeddings through a narrow layer; the best epoch by validation is kept.

    Parameters
    ----------
    x
        (n, d) standardised embeddings.
    values
        (n, n_genes) log-normalised expression.
    held_out
        (n,) bool: cells of validation.

    Returns
    -------
    The weights, and a row for each epoch: mean squared errors of training and validation.
    """
    key, own = jax.random.split(jax.random.key(recipe.random_state))
    weights = _draw((x.shape[1], WIDTH, recipe.n_components, WIDTH, values.shape[1]), values[~held_out].mean(0), own)
    state = adam_start(weights)
    training = jnp.asarray(x[~held_out]), jnp.asarray(values[~held_out])
    validation = jnp.asarray(x[held_out]), jnp.asarray(values[held_out])
    rows, best, kept = [], np.inf, weights
    with progress(MAX_EPOCHS, "autoencoder", "epochs") as bar:
        for epoch in range(MAX_EPOCHS):
            key, own = jax.random.split(key)
            weights, state, loss = _epoch(weights, state, *training, own)
            error = float(_error(weights, *validation))
            rows.append({"epoch": epoch, "loss": float(loss), "validation": error})
            if error < best:
                best, kept, best_epoch = error, weights, epoch
            bar.update(1)
            if epoch - best_epoch == PATIENCE:
                break
    return {name: np.asarray(array) for name, array in kept.items()}, pd.DataFrame(rows)


@jax.jit
def _epoch(
    weights: Arrays, state: AdamState, x: jax.Array, values: jax.Array, key: jax.Array
) -> tuple[Arrays, AdamState, jax.Array]:
    size = min(BATCH, len(x))
    order = jax.random.permutation(key, len(x))[: len(x) // size * size].reshape(-1, size)

    def step(carry: tuple[Arrays, AdamState], cells: jax.Array) -> tuple[tuple[Arrays, AdamState], jax.Array]:
        weights, state = carry
        loss, slope = jax.value_and_grad(_error)(weights, x[cells], values[cells])
        return adam_step(weights, slope, state, LEARNING_RATE, weight_decay=WEIGHT_DECAY), loss

    (weights, state), losses = jax.lax.scan(step, (weights, state), order)
    return weights, state, losses.mean()


@jax.jit
def _error(weights: Arrays, x: jax.Array, values: jax.Array) -> jax.Array:
    return ((decode(weights, encode(weights, x)) - values) ** 2).mean()


def _draw(sizes: tuple[int, ...], mean: np.ndarray, key: jax.Array) -> Arrays:
    """He's start; the last layer starts at the mean of the training cells."""
    weights = {}
    for name, before, after, own in zip(LAYERS, sizes[:-1], sizes[1:], jax.random.split(key, len(LAYERS)), strict=True):
        weights[f"{name}.weight"] = jax.random.normal(own, (before, after)) * np.sqrt(1 / before).astype(np.float32)
        weights[f"{name}.bias"] = jnp.zeros(after)
    weights["out.1.bias"] = jnp.asarray(mean, jnp.float32)
    return weights


def _dense(weights: Arrays, name: str, x: jax.Array) -> jax.Array:
    return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]
