"""CellOT (Bunne 2023): optimal transport between two sets of cells by a pair of convex potentials."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from cellfm.engines import fit
from cellfm.tasks.transport._convex import Weights, carry, convex, draw_potential, gradient, potential
from cellfm.tasks.transport._recipe import Recipe

BETAS = (0.5, 0.9)
PAD = 1024
"""Sets of cells are padded to multiples of this, so that fits of similar size share compiled code."""


def fit_potentials(
    source: np.ndarray, target: np.ndarray, score: Callable[[np.ndarray], float], held_out: np.ndarray, recipe: Recipe
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Learn the map from source to target cells; keep the potentials with the lowest score.

    Parameters
    ----------
    source, target
        (n, d) and (m, d) cells, in no common order.
    score
        Distance of mapped cells from target cells; lower is better.
    held_out
        (k, d) source cells for `score`, computed before training and every `recipe.validate_every` steps.

    Returns
    -------
    The weights of the potential over source cells, and a row for each validation.
    """
    generator = np.random.default_rng(recipe.random_state)
    shift = target.mean(0) - source.mean(0) if recipe.start == "shift" else np.zeros(source.shape[1], np.float32)
    f, g = (draw_potential(start, recipe.widths, generator) for start in (-shift, shift))
    size, period = min(recipe.batch_size, len(source), len(target)), recipe.inner_steps + 1

    def batch(step: int) -> tuple[np.ndarray, ...]:
        generator = np.random.default_rng((recipe.random_state, step))
        return tuple(generator.integers(0, len(cells), size) for cells in (source, target))

    weights, rows = fit(
        {"f": _loss_of_f, "g": _loss_of_g},
        {"f": f, "g": g},
        batch,
        data=(_padded(source), _padded(target)),
        turns=("g",) * recipe.inner_steps + ("f",),
        steps=recipe.n_steps * period,
        learning_rate=recipe.learning_rate,
        betas=BETAS,
        project=convex,
        validate=lambda weights: score(carry(weights["g"], held_out)),
        every=recipe.validate_every * period,
        patience=recipe.patience,
        label="optimal transport",
    )
    history = pd.DataFrame(rows)
    return weights["g"], history.assign(step=history["step"] // period)


def _loss_of_g(xp: SimpleNamespace, weights: Weights, source: Any, target: Any, of_source: Any, of_target: Any) -> Any:
    """The loss of g over source cells, whose gradient is the map: moved cells are near, and where f is small."""
    x = source[of_source]
    moved = gradient(xp, weights["g"], x)
    return (potential(xp, weights["f"], moved) - (x * moved).sum(1)).mean()


def _loss_of_f(xp: SimpleNamespace, weights: Weights, source: Any, target: Any, of_source: Any, of_target: Any) -> Any:
    """The loss of f over target cells: f is large where cells are moved to and target cells are few."""
    moved = gradient(xp, weights["g"], source[of_source])
    return potential(xp, weights["f"], target[of_target]).mean() - potential(xp, weights["f"], moved).mean()


def _padded(cells: np.ndarray) -> np.ndarray:
    """Cells, padded with empty rows that no batch reads."""
    return np.pad(cells, ((0, -len(cells) % PAD), (0, 0)))
