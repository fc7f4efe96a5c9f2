"""Input-convex networks (Amos 2017): potentials whose gradients are maps of optimal transport."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from cellfm.engines import apply

SLOPE = 0.2
"""Slope of LeakyReLU."""
START = 0.1
"""Inner weights start between 0 and this divided by their number, so that the network starts flat."""

Weights = dict[str, Any]


def draw_potential(shift: np.ndarray, widths: tuple[int, ...], generator: np.random.Generator) -> Weights:
    """Weights of a potential over n inputs that starts close to ``|x|^2 / 2 + <shift, x>``.

    Its gradient then adds `shift`, (n,), to each cell.
    """
    n = len(shift)
    weights: Weights = {"square": np.ones(n, np.float32)}
    before = 0
    for i, width in enumerate((*widths, 1)):
        scale = 0.01 if i == len(widths) else 1 / np.sqrt(n)
        weights[f"input.{i}"] = scale * generator.standard_normal((n, width))
        weights[f"bias.{i}"] = np.zeros(width)
        if before:
            weights[f"inner.{i}"] = generator.uniform(0, START / before, (before, width))
        before = width
    weights[f"input.{len(widths)}"] += shift[:, None]
    return {name: array.astype(np.float32) for name, array in weights.items()}


def potential(xp: SimpleNamespace, weights: Weights, x: Any) -> Any:
    """A convex function of each cell, (b, n) -> (b,).

    The first layer is LeakyReLU squared, the later ones LeakyReLU of the input and of the layer before, whose weights
    are not negative (`convex`). A square with a weight of 0 or more for each dimension is added.
    """
    n_layers = sum(name.startswith("input.") for name in weights)
    h = xp.leaky_relu(x @ weights["input.0"] + weights["bias.0"], SLOPE) ** 2  # (b, width)
    for i in range(1, n_layers):
        h = h @ weights[f"inner.{i}"] + x @ weights[f"input.{i}"] + weights[f"bias.{i}"]
        h = h if i == n_layers - 1 else xp.leaky_relu(h, SLOPE)
    return h[:, 0] + 0.5 * (x * x) @ weights["square"]


def gradient(xp: SimpleNamespace, weights: Weights, x: Any) -> Any:
    """The gradient of the potential at each cell, (b, n) -> (b, n)."""
    return xp.gradient(lambda x: potential(xp, weights, x).sum())(x)


def carry(weights: Weights, x: np.ndarray) -> np.ndarray:
    """The map whose potential this is, (n, d) -> (n, d) float32."""
    return apply(gradient, weights, np.asarray(x, np.float32))


def convex(xp: SimpleNamespace, weights: Weights) -> Weights:
    """The same weights, with negative ones set to 0 where the potential would not be convex."""
    return {
        name: xp.maximum(array, 0) if name.startswith("inner.") or name == "square" else array
        for name, array in weights.items()
    }
