"""CellOT (Bunne 2023): optimal transport between two sets of cells by a pair of convex potentials."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from cellfm._progress import progress
from cellfm.tasks.transport._adam import AdamState, adam_start, adam_step
from cellfm.tasks.transport._convex import Weights, convex, draw_potential, gradient, potential
from cellfm.tasks.transport._recipe import Recipe

BETAS = (0.5, 0.9)
PAD = 1024
"""Sets of cells are padded to multiples of this, so that fits of about the same size share what was compiled."""


class Pair(NamedTuple):
    """Both potentials in training."""

    f: Weights
    """Over target cells."""
    g: Weights
    """Over source cells: its gradient is the map."""
    of_f: AdamState
    of_g: AdamState


def fit_potentials(
    source: np.ndarray, target: np.ndarray, score: Callable[[np.ndarray], float], held_out: np.ndarray, recipe: Recipe
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Learn the map from source to target cells; the potentials of the least score are kept.

    Parameters
    ----------
    source, target
        (n, d) and (m, d) cells, in no common order.
    score
        How far mapped cells are from what they should be, the less the better.
    held_out
        (k, d) source cells that `score` is asked about, before training and every `recipe.validate_every` steps.

    Returns
    -------
    The weights of the potential over source cells, and a row for each validation.
    """
    draw, key = jax.random.split(jax.random.key(recipe.random_state))
    shift = target.mean(0) - source.mean(0) if recipe.start == "shift" else np.zeros(source.shape[1], np.float32)
    key_f, key_g = jax.random.split(draw)
    f, g = draw_potential(-shift, recipe.widths, key_f), draw_potential(shift, recipe.widths, key_g)
    pair = Pair(f, g, adam_start(f), adam_start(g))
    cells = _padded(source), _padded(target)
    options = {
        "n_steps": recipe.validate_every,
        "inner_steps": recipe.inner_steps,
        "batch_size": min(recipe.batch_size, len(source), len(target)),
    }
    rows, best, kept, waited = [], np.inf, g, 0
    with progress(recipe.n_steps, "optimal transport", "steps") as bar:
        for done in range(0, recipe.n_steps + 1, recipe.validate_every):
            losses = (np.nan, np.nan)
            if done:
                key, own = jax.random.split(key)
                pair, losses = _steps(pair, *cells, own, recipe.learning_rate, **options)
                bar.update(recipe.validate_every)
            found = score(np.asarray(gradient(pair.g, held_out)))
            rows.append({"step": done, "loss_f": float(losses[0]), "loss_g": float(losses[1]), "validation": found})
            if found < best:
                best, kept, waited = found, pair.g, 0
            else:
                waited += 1
            if waited == recipe.patience:
                break
    return {name: np.asarray(array) for name, array in kept.items()}, pd.DataFrame(rows)


def _padded(cells: np.ndarray) -> tuple[jax.Array, int]:
    """Cells with empty rows behind them, and how many they are."""
    return jnp.asarray(np.pad(cells, ((0, -len(cells) % PAD), (0, 0)))), len(cells)


@partial(jax.jit, static_argnames=("n_steps", "inner_steps", "batch_size"))
def _steps(
    pair: Pair,
    source: tuple[jax.Array, int],
    target: tuple[jax.Array, int],
    key: jax.Array,
    learning_rate: float,
    *,
    n_steps: int,
    inner_steps: int,
    batch_size: int,
) -> tuple[Pair, tuple[jax.Array, jax.Array]]:
    """Some steps of f, each after `inner_steps` of g, in one compiled loop; and the mean losses."""

    def batch(cells: tuple[jax.Array, int], key: jax.Array) -> jax.Array:
        return cells[0][jax.random.randint(key, (batch_size,), 0, cells[1])]

    def loss_of_g(g: Weights, f: Weights, x: jax.Array) -> jax.Array:
        moved = gradient(g, x)
        return (potential(f, moved) - (x * moved).sum(1)).mean()

    def loss_of_f(f: Weights, y: jax.Array, moved: jax.Array) -> jax.Array:
        return potential(f, y).mean() - potential(f, moved).mean()

    def inner(carry: tuple[Weights, AdamState, Weights], key: jax.Array) -> tuple[tuple, jax.Array]:
        g, state, f = carry
        loss, slope = jax.value_and_grad(loss_of_g)(g, f, batch(source, key))
        g, state = adam_step(g, slope, state, learning_rate, BETAS)
        return (convex(g), state, f), loss

    def outer(pair: Pair, key: jax.Array) -> tuple[Pair, tuple[jax.Array, jax.Array]]:
        *keys, key_x, key_y = jax.random.split(key, inner_steps + 2)
        (g, of_g, _), losses = jax.lax.scan(inner, (pair.g, pair.of_g, pair.f), jnp.stack(keys))
        moved = gradient(g, batch(source, key_x))
        loss, slope = jax.value_and_grad(loss_of_f)(pair.f, batch(target, key_y), moved)
        f, of_f = adam_step(pair.f, slope, pair.of_f, learning_rate, BETAS)
        return Pair(convex(f), g, of_f, of_g), (loss, losses.mean())

    pair, losses = jax.lax.scan(outer, pair, jax.random.split(key, n_steps))
    return pair, (losses[0].mean(), losses[1].mean())
