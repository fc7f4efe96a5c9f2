"""Gene loadings improved by contrast before there is a network: a cell is the sum of its genes, nothing more.

The same losses as for the network, at a thousandth of its cost: the image of a cell is ``sum_g x_g L_g - average``.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.mini.corpus import CountSet
from benchmarks.mini.views import ViewRecipe, draw_views, values_of, wanted_neighbors

MIN_CELLS = 10
"""Steps with fewer usable cells (small panels, thinned) are passed over."""


@dataclass(frozen=True)
class RefineRecipe:
    """How loadings are refined."""

    n_steps: int = 300
    learning_rate: float = 0.005
    """Largest change of a gene's loadings in a step, as a share of their usual size."""
    warm_up: int = 30
    temperature: float = 0.2


def refine_loadings(
    sets: list[CountSet],
    loadings: np.ndarray,
    average: np.ndarray,
    recipe: RefineRecipe,
    views: ViewRecipe,
    *,
    random_state: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Loadings (n_rows, n_dims) and average (n_dims,) after some steps of Adam on cells of one data set each.

    Genes that a step does not see stay as they are; the second moment of Adam is one number a gene, so that the
    direction of its gradient is kept.
    """
    generator = np.random.default_rng(random_state)
    loadings, average = loadings.astype(np.float32), average.astype(np.float32)
    size = np.sqrt((loadings**2).sum() / np.any(loadings != 0, axis=1).sum())
    average_size = np.abs(average).mean()
    first, second = np.zeros_like(loadings), np.zeros(len(loadings), np.float32)
    first_average, second_average = np.zeros_like(average), 0.0
    shares = np.sqrt([cells.n_cells for cells in sets])
    for step in range(1, recipe.n_steps + 1):
        cells = sets[generator.choice(len(sets), p=shares / shares.sum())]
        rows, tokens, usable = draw_views(cells, views, generator)
        if usable.sum() < MIN_CELLS:
            continue
        usable = np.tile(usable, 2)
        values = values_of(tokens, len(loadings))[usable]
        wanted = wanted_neighbors(cells, rows, views)[usable][:, usable]
        gradient = contrast_gradient(values @ loadings - average, wanted, recipe.temperature)
        rate = recipe.learning_rate * min(step / recipe.warm_up, 0.5 * (1 + np.cos(np.pi * step / recipe.n_steps)))

        seen = np.unique(values.indices)
        change = (values.T @ gradient)[seen]
        first[seen] = 0.9 * first[seen] + 0.1 * change
        second[seen] = 0.95 * second[seen] + 0.05 * (change**2).mean(1)
        loadings[seen] -= rate * size * first[seen] / (np.sqrt(second[seen])[:, None] + 1e-9)
        change = -gradient.sum(0)
        first_average = 0.9 * first_average + 0.1 * change
        second_average = 0.95 * second_average + 0.05 * (change**2).mean()
        average -= rate * average_size * first_average / np.sqrt(second_average + 1e-20)
    return loadings, average


def contrast_gradient(images: np.ndarray, wanted: np.ndarray, temperature: float) -> np.ndarray:
    """Gradient by `images` (n, n_dims) of the cross-entropy between `wanted` (n, n) and their softmaxed cosines."""
    length = np.linalg.norm(images, axis=1, keepdims=True) + 1e-6
    unit = images / length
    logits = unit @ unit.T / temperature
    np.fill_diagonal(logits, -np.inf)
    found = np.exp(logits - logits.max(1, keepdims=True))
    found /= found.sum(1, keepdims=True)
    by_logit = (found * wanted.sum(1, keepdims=True) - wanted) / (temperature * len(images))
    by_unit = (by_logit + by_logit.T) @ unit
    return (by_unit - (by_unit * unit).sum(1, keepdims=True) * unit) / length
