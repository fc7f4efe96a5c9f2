"""Layers, embedding and decoders are their formulas, token by token; what is dropped follows from a key."""

import numpy as np
import pytest
from nn_inputs import CONFIG, arrays_of, laid_out, of_layout, random_tokens, random_weights, with_options
from numpy_operations import NumpyOperations
from on_engine import differentiate, run

from cellfm.config import ModelConfig
from cellfm.engines import start_engine
from cellfm.engines.jax.operations import JaxOperations
from cellfm.nn.eretnet import dropout_plan
from cellfm.nn.network import network
from cellfm.nn.weights import nest

OPTIONS = [
    {},
    {"feed_forward": "ffn"},
    {"norm": "prenorm"},
    {"retention": "decay"},
    {"zero_modelling": True, "depth_tokens": True},
    {"lora_rank": 2},
]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


class Naive:
    """The network of one cell from its formulas, token by token and head by head, in float64."""

    def __init__(self, config: ModelConfig, weights) -> None:
        self.config = config
        self.w = {name: array.astype(float) for name, array in weights.items()}

    def matrix(self, name):
        if f"{name}.weight" in self.w:
            return self.w[f"{name}.weight"]
        base, a, b = (self.w[f"{name}.{part}.weight"] for part in ("base", "a", "b"))
        return base + b @ a

    def norm(self, name, x):
        y = (x - x.mean()) / np.sqrt(x.var() + 1e-7)
        return self.w[f"{name}.gamma"] * y + self.w[f"{name}.beta"]

    def value(self, x, part="value"):
        v1 = leaky(self.w[f"embed.{part}.expand.weight"][:, 0] * x)
        v2 = self.w[f"embed.{part}.mix.weight"] @ v1 + self.w[f"embed.{part}.skip"][0, 0] * v1
        choice = np.exp(v2) / np.exp(v2).sum()
        return self.w[f"embed.{part}.table.weight"] @ choice

    def embed(self, genes, values, visible, depths):
        w, config = self.w, self.config
        tokens = [w["embed.cls"][0, 0]]
        if config.depth_tokens:
            tokens += [w["embed.depth"][i] + self.value(depth, "depth_value") for i, depth in enumerate(depths)]
        for g, x, seen in zip(genes, values, visible, strict=True):
            if not seen:
                shown = w["embed.hidden"][0, 0]
            elif x == 0 and config.zero_modelling:
                shown = w["embed.zero"][0, 0]
            else:
                shown = self.value(x)
            tokens.append(w["embed.gene"][g] + shown)
        return np.array(tokens)

    def attention(self, layer, x, readable, n_genes):
        config, name = self.config, f"backbone.layers.{layer}.attention"
        q, k, v, u = (x @ self.matrix(f"{name}.{part}").T for part in ("query", "key", "value", "gate"))
        q, k, read = np.maximum(q, 0), np.maximum(k, 0), np.zeros_like(x)
        width = config.d_head
        for h in range(config.n_heads):
            own = slice(h * width, (h + 1) * width)
            for i in range(len(x)):
                total = np.zeros(width)
                for j in range(len(x)):
                    if readable[j]:
                        fades = (1 - 2.0 ** (-5 - h)) ** abs(i - j) if config.retention == "decay" else 1
                        total += fades * (q[i, own] @ k[j, own]) / config.d_head * v[j, own] / np.sqrt(n_genes)
                read[i, own] = total / max(np.sqrt((total**2).mean()), 1e-12)
        return (read * u * sigmoid(u)) @ self.matrix(f"{name}.output").T

    def feed_forward(self, layer, y):
        name = f"backbone.layers.{layer}.glu"
        if self.config.feed_forward == "ffn":
            inner = self.matrix(f"{name}.inner") @ y
            return self.matrix(f"{name}.output") @ (inner * sigmoid(inner))
        return self.matrix(f"{name}.output") @ ((self.matrix(f"{name}.gate") @ y) * (self.matrix(f"{name}.value") @ y))

    def __call__(self, genes, values, visible, depths):
        config, alpha = self.config, (2 * self.config.n_layers) ** 0.25
        x = self.embed(genes, values, visible, depths)
        special = np.ones(len(x) - len(genes))
        for i in range(config.n_layers):
            shown = np.concatenate((special, visible if i < config.n_layers // 2 else np.ones(len(genes))))
            one, two = (f"backbone.layers.{i}.norm{n}" for n in (1, 2))
            if config.norm == "prenorm":
                read = self.attention(i, np.array([self.norm(one, t) for t in x]), shown, len(genes))
                y = x + read
                x = np.array([t + self.feed_forward(i, self.norm(two, t)) for t in y])
            else:
                y = alpha * x + self.attention(i, x, shown, len(genes))
                y = np.array([self.norm(one, t) for t in y])
                x = np.array([self.norm(two, alpha * t + self.feed_forward(i, t)) for t in y])
        tokens = x[len(x) - len(genes) :]
        inner, output = self.w["gene_decoder.inner.weight"], self.w["gene_decoder.output.weight"][0]
        gene_wise = np.array([output @ leaky(inner @ t) for t in tokens])
        of_cell = self.w["cell_decoder.inner.weight"]
        cell_wise = np.array([sigmoid(of_cell @ self.w["embed.gene"][g]) @ x[0] for g in genes])
        return x[0], tokens, gene_wise, cell_wise


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_network_is_its_formulas(options):
    """With NumPy's operations, to which the engines are held in the other tests."""
    config, tokens = with_options(**options), random_tokens([20, 7], zeros=0.2)
    weights = random_weights(config)
    visible = (np.random.default_rng(1).random(27) < 0.7).astype(np.float32)
    chunks = laid_out(tokens, config)
    exact = nest({name: array.astype(float) for name, array in weights.items()})
    arrays = arrays_of(chunks, visible)
    cell, *others = of_layout(network, config)(NumpyOperations(), exact, arrays[0].astype(float), *arrays[1:])
    others = [array.reshape(-1, *array.shape[2:])[chunks.token_row] for array in others]
    naive = Naive(config, weights)
    for i, own in enumerate((slice(0, 20), slice(20, 27))):
        depths = chunks.values.reshape(-1)[chunks.cls_row[i] + 1 : chunks.cls_row[i] + 3]
        expected = naive(tokens.gene_ids[own], tokens.values[own].astype(float), visible[own], depths)
        np.testing.assert_allclose(cell[i], expected[0], atol=1e-9)
        for found, other in zip(others, expected[1:], strict=True):
            np.testing.assert_allclose(found[own], other, atol=1e-9)


def test_many_layers_are_scanned_over_and_computed_again_without_a_difference():
    """Both in JAX alone: one layer compiled for all, and activations that are not kept."""
    config = with_options(n_layers=6)
    weights = random_weights(config, noise=0.05)
    arrays = arrays_of(laid_out(random_tokens([40, 5])))
    exact = {name: array.astype(float) for name, array in weights.items()}
    expected = of_layout(network, config)(NumpyOperations(), nest(exact), *arrays)
    found = run(start_engine("jax"), of_layout(network, config), weights, *arrays)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)

    def loss(xp, p, arrays, keys):
        cell, _, gene_wise, _ = of_layout(network, config)(xp, p, *arrays)
        total = (cell[:, :3]).sum() + (gene_wise * arrays[3]).sum()
        return total, total.reshape((1,))

    names = [f"backbone.layers.{i}.attention.value.weight" for i in range(6)] + ["embed.cls"]
    (plain, gradients), (again, recomputed) = (
        differentiate(start_engine("jax"), loss, weights, arrays, names, recompute=recompute)
        for recompute in (False, True)
    )
    assert again.loss == pytest.approx(plain.loss, rel=1e-6)
    for name, array in gradients.items():
        assert np.abs(array).max() > 0
        np.testing.assert_allclose(recomputed[name], array, atol=1e-5 * np.abs(array).max(), rtol=0, err_msg=name)


def test_what_is_dropped_is_the_same_in_every_engine_and_follows_the_keys(engine):
    chunks = laid_out(random_tokens([60, 30]))
    weights, plan = random_weights(), dropout_plan(CONFIG.n_layers, 0.5)
    arrays = arrays_of(chunks)

    def cells(xp, p, keys, values, visible, gene_ids, mask, chunk_cell, cls_row):
        layout = (gene_ids, mask, chunk_cell, cls_row)
        return network(xp, CONFIG, p, values, visible, layout, (keys, plan))[0]

    exact = nest({name: array.astype(float) for name, array in weights.items()})
    drawn = []
    for keys in (np.array([1, 2, 3, 4], np.int32), np.array([1, 2, 3, 5], np.int32)):
        found = run(engine, cells, weights, keys, *arrays)
        np.testing.assert_allclose(found, cells(NumpyOperations(), exact, keys, *arrays), atol=2e-5, rtol=1e-5)
        drawn.append(found)
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-2
    assert np.abs(drawn[0] - run(engine, of_layout(network), weights, *arrays)[0]).max() > 1e-2


def test_deeper_layers_drop_more_and_the_first_nothing():
    plan = dropout_plan(4, 0.4)
    assert [scale for _, scale in plan] == pytest.approx([1, 1 / 0.9, 1 / 0.8, 1 / 0.7])
    assert [(threshold / 2**32) + 0.5 for threshold, _ in plan] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert plan[0][0] == -(2**31), "no number of int32 is less"
    assert dropout_plan(3, 0.0) == [(-(2**31), 1.0)] * 3


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_is_close_and_is_float32_outside_of_products(precision):
    arrays, weights = arrays_of(laid_out(random_tokens([60, 20]))), random_weights()
    full = run(start_engine("jax"), of_layout(network), weights, *arrays)
    half = of_layout(network)(JaxOperations(precision), nest(weights), *arrays)
    for one, other in zip(full, half, strict=True):
        assert other.dtype == np.float32
        scale = max(1, np.abs(one).max())
        np.testing.assert_allclose(
            np.asarray(other), one, atol=scale * (0.03 if precision == "float16" else 0.2), rtol=0
        )
    assert np.abs(np.asarray(half[0]) - full[0]).max() > 1e-5
