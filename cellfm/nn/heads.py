"""Heads that predict classes: a small MLP on CLS, and learned class queries over the gene tokens."""

import dataclasses

import numpy as np

from cellfm.config import ModelConfig
from cellfm.engines import Array, Operations, Weights
from cellfm.nn.attention import attend, key_value_state
from cellfm.nn.eretnet import add
from cellfm.nn.layout import Layout, is_gene, value_scale
from cellfm.nn.linear import dense

N_CROSS_LAYERS = 2
"""Cross-attention layers of a query head."""


def mlp_head(xp: Operations, p: Weights, cell: Array, mean: Array, inv_scale: Array) -> Array:
    """Logits of classes from CLS: standardised, then dense layers with ReLU between them (Zeng 2025).

    (b, d) to (b, n_classes). `mean` and `inv_scale` (d,) come from the training cells and are not trained.
    """
    x = (cell - mean) * inv_scale
    if "hidden" in p:
        for p_layer in p["hidden"]:
            x = xp.relu(dense(xp, p_layer, x))
    return dense(xp, p["output"], x)


def query_head(
    xp: Operations, config: ModelConfig, p: Weights, cell: Array, tokens: Array, layout: Layout
) -> tuple[Array, Array]:
    """Two logits of each class from the tokens of a cell: CLS (b, d), tokens (c, s, d) to (b, n_classes) each.

    Learned class vectors and CLS are the queries of two cross-attention layers, which read the gene tokens. Each
    class is scored twice: by a projection of the output of its query, and by the product of its vector with the output
    of CLS. `config` is that of `query_head_config`.
    """
    b, d = cell.shape
    n = p["classes"].shape[0]
    queries = xp.broadcast_to(p["classes"][None], (b, n, d))
    x = xp.concat((queries, cell[:, None]), 1)  # (b, n + 1, d)
    keys, scale = is_gene(xp, layout)[..., None], value_scale(xp, layout)
    for p_layer in p["layers"]:
        state = key_value_state(xp, config, p_layer["attention"], tokens, keys, scale, layout)  # (b, h, k, k)
        x = add(xp, config, p_layer, x, attend(xp, config, p_layer["attention"], x, state))
    of_queries = dense(xp, p["output"], x[:, :n])[..., 0]  # (b, n)
    of_cls = xp.matmul(x[:, n], p["classes"].T) * d**-0.5  # (b, n)
    return of_queries, of_cls


def query_head_config(config: ModelConfig) -> ModelConfig:
    """The configuration of the layers of a query head on a network."""
    return dataclasses.replace(
        config, n_layers=N_CROSS_LAYERS, feed_forward="sglu", norm="deepnorm", retention="linear"
    )


def mlp_head_weights(d: int, n_classes: int, *, n_layers: int = 1, random_state: int = 0) -> dict[str, np.ndarray]:
    """Initial weights by flat name: Xavier normal; the last layer starts at zero, all classes equally probable."""
    shapes = {f"hidden.{i}": (d, d) for i in range(n_layers - 1)} | {"output": (n_classes, d)}
    weights: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        weights[f"{name}.bias"] = np.zeros(shape[0], np.float32)
        weights[f"{name}.linear.weight"] = np.zeros(shape, np.float32)
    return draw(weights, random_state=random_state, zero=("output.linear.weight",))


def query_head_weights(config: ModelConfig, n_classes: int, *, random_state: int = 0) -> dict[str, np.ndarray]:
    """Initial weights by flat name: Xavier normal, norms the identity."""
    d = config.d_model
    weights: dict[str, np.ndarray] = {"classes": np.zeros((n_classes, d), np.float32)}
    for i in range(N_CROSS_LAYERS):
        for name in ("query", "key", "value", "gate", "output"):
            weights[f"layers.{i}.attention.{name}.weight"] = np.zeros((d, d), np.float32)
        for name in ("gate", "value", "output"):
            weights[f"layers.{i}.glu.{name}.weight"] = np.zeros((d, d), np.float32)
        for name in ("norm1", "norm2"):
            weights[f"layers.{i}.{name}.gamma"] = np.ones(d, np.float32)
            weights[f"layers.{i}.{name}.beta"] = np.zeros(d, np.float32)
    weights["output.bias"] = np.zeros(1, np.float32)
    weights["output.linear.weight"] = np.zeros((1, d), np.float32)
    return draw(weights, random_state=random_state)


def draw(weights: dict[str, np.ndarray], *, random_state: int = 0, zero: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The same with matrices drawn from the Xavier normal distribution, in order, except those named in `zero`."""
    generator = np.random.default_rng(random_state)
    drawn = {}
    for name, array in weights.items():
        if array.ndim < 2 or name in zero:
            drawn[name] = array
        else:
            std = np.sqrt(2 / sum(array.shape))
            drawn[name] = (generator.standard_normal(array.shape) * std).astype(np.float32)
    return drawn
