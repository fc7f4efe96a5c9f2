"""Adam (Kingma 2015) for dictionaries of JAX arrays, with decoupled weight decay."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

EPSILON = 1e-8

Arrays = dict[str, jax.Array]


class AdamState(NamedTuple):
    """Running means of the gradients and of their squares, and how many there were."""

    mean: Arrays
    square: Arrays
    n_steps: jax.Array


def adam_start(weights: Arrays) -> AdamState:
    """Before the first step."""
    zeros = jax.tree.map(jnp.zeros_like, weights)
    return AdamState(zeros, zeros, jnp.zeros((), jnp.int32))


def adam_step(
    weights: Arrays,
    gradients: Arrays,
    state: AdamState,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> tuple[Arrays, AdamState]:
    """One step: the weights after it, and the state."""
    n_steps = state.n_steps + 1
    mean = jax.tree.map(lambda m, g: betas[0] * m + (1 - betas[0]) * g, state.mean, gradients)
    square = jax.tree.map(lambda s, g: betas[1] * s + (1 - betas[1]) * g * g, state.square, gradients)
    of_mean, of_square = (1 - beta ** n_steps.astype(jnp.float32) for beta in betas)

    def moved(weight: jax.Array, m: jax.Array, s: jax.Array) -> jax.Array:
        step = m / of_mean / (jnp.sqrt(s / of_square) + EPSILON)
        return weight - learning_rate * (step + weight_decay * weight)

    return jax.tree.map(moved, weights, mean, square), AdamState(mean, square, n_steps)
