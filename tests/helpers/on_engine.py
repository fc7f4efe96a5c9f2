"""Functions of `cellfm.nn` run by an engine: values in NumPy, and gradients, read from the first moments of Adam."""

from functools import cache, partial
from typing import Any

import numpy as np

from cellfm.config import TrainConfig
from cellfm.engines import Objective
from cellfm.nn.weights import nest


def run(engine, function, weights: dict[str, np.ndarray], *arrays: np.ndarray) -> Any:
    """``function(xp, nested weights, *arrays)`` as NumPy arrays, nested as it returns them.

    JAX compiles it, once for all calls of one shape; MindSpore runs it one operation after the other, which takes much
    less time than its compiler.
    """
    placed = engine.place(nest(weights))
    if engine.name == "jax":
        return as_numpy(compiled(engine.xp, function)(placed, *arrays))
    import mindspore as ms

    return as_numpy(function(engine.xp, placed, *map(ms.Tensor, arrays)))


@cache
def compiled(xp, function) -> Any:
    import jax

    return jax.jit(partial(function, xp))


def as_numpy(found: Any) -> Any:
    if isinstance(found, tuple | list):
        return tuple(map(as_numpy, found))
    return found.asnumpy() if hasattr(found, "asnumpy") else np.asarray(found)


def differentiate(engine, loss, weights: dict[str, np.ndarray], arrays=(), trained=None, **options):
    """Loss, terms and gradients by flat name of an objective's ``loss(xp, weights, arrays, keys)``.

    By a step of training, in which the first moments are `1 - beta1` of the gradients; `options` are of `TrainConfig`.
    """
    trained = list(weights) if trained is None else list(trained)
    n_keys = options.pop("n_keys", 0)
    config = TrainConfig(**{"clip": "none", "weight_decay": 0.0, "dropout": 0.0} | options)
    trainer = engine.trainer(Objective(loss, n_keys), weights, trained, config, nest)
    result = trainer([list(arrays)], 0)
    moments = trainer.moments()
    return result, {name: moments[f"moment1.{name}"] / np.float32(1 - config.beta1) for name in trained}


def differences(function, weights: dict[str, np.ndarray], step: float = 1e-5) -> dict[str, np.ndarray]:
    """Gradients of ``function(weights)`` by central differences, in float64."""
    gradients = {}
    for name, array in weights.items():
        gradients[name] = np.zeros(array.shape)
        for place in np.ndindex(array.shape):
            ends = []
            for sign in (1, -1):
                moved = {other: np.array(values, float) for other, values in weights.items()}
                moved[name][place] += sign * step
                ends.append(function(moved))
            gradients[name][place] = (ends[0] - ends[1]) / (2 * step)
    return gradients
