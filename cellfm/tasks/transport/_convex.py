"""Input-convex networks (Amos 2017) in JAX: potentials whose gradients are maps of optimal transport."""

import jax
import jax.numpy as jnp
import numpy as np

SLOPE = 0.2
"""Of LeakyReLU."""
START = 0.1
"""Inner weights start between 0 and this over their number, so that the network starts flat."""

Weights = dict[str, jax.Array]


def draw_potential(shift: np.ndarray, widths: tuple[int, ...], key: jax.Array) -> Weights:
    """Weights of a potential over n inputs that starts close to ``|x|^2 / 2 + <shift, x>``.

    Its gradient is then to add `shift`, (n,), to each cell.
    """
    n = len(shift)
    keys = jax.random.split(key, 2 * len(widths) + 1)
    weights = {"square": jnp.ones(n)}
    before = 0
    for i, width in enumerate((*widths, 1)):
        last = i == len(widths)
        scale = 0.01 if last else 1 / np.sqrt(n)
        weights[f"input.{i}"] = scale * jax.random.normal(keys[2 * i], (n, width))
        weights[f"bias.{i}"] = jnp.zeros(width)
        if before:
            weights[f"inner.{i}"] = jax.random.uniform(keys[2 * i - 1], (before, width), maxval=START / before)
        before = width
    weights[f"input.{len(widths)}"] += shift[:, None]
    return weights


@jax.jit
def potential(weights: Weights, x: jax.Array) -> jax.Array:
    """A convex function of each cell, (b, n) -> (b,).

    The first layer is LeakyReLU squared, the later ones LeakyReLU of the input and of the layer before, whose weights
    are not negative (`convex`). A square with a weight of 0 or more for each dimension is added.
    """
    n_layers = sum(name.startswith("input.") for name in weights)
    h = jax.nn.leaky_relu(x @ weights["input.0"] + weights["bias.0"], SLOPE) ** 2  # (b, width)
    for i in range(1, n_layers):
        h = h @ weights[f"inner.{i}"] + x @ weights[f"input.{i}"] + weights[f"bias.{i}"]
        h = h if i == n_layers - 1 else jax.nn.leaky_relu(h, SLOPE)
    return h[:, 0] + 0.5 * (x * x) @ weights["square"]


@jax.jit
def gradient(weights: Weights, x: jax.Array) -> jax.Array:
    """The gradient of the potential at each cell, (b, n) -> (b, n)."""
    return jax.grad(lambda x: potential(weights, x).sum())(x)


def convex(weights: Weights) -> Weights:
    """The same weights with those set to 0 that must not be negative for the potential to be convex."""
    return {
        name: jnp.maximum(array, 0) if name.startswith("inner.") or name == "square" else array
        for name, array in weights.items()
    }
