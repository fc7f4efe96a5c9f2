"""Adapters change nothing at the start, and merged adapters give what unmerged ones gave."""

import dataclasses

import numpy as np
import pytest
from nn_inputs import CONFIG, OUTPUTS, arrays_of, laid_out, of_layout, random_tokens, random_weights
from on_engine import differentiate, run

from cellfm.nn.lora import add_adapters
from cellfm.nn.network import network
from cellfm.nn.parameters import initial_weights, merged_weights, parameter_shapes, projections

ARRAYS = arrays_of(laid_out(random_tokens([70, 5, 30])))


def outputs(engine, weights):
    return run(engine, of_layout(network), weights, *ARRAYS)


def close(some, others, atol):
    for name, one, other in zip(OUTPUTS, some, others, strict=True):
        np.testing.assert_allclose(one, other, atol=atol, rtol=0, err_msg=name)


def test_fresh_adapters_change_nothing(engine):
    weights = random_weights()
    close(outputs(engine, add_adapters(CONFIG, weights, 4)), outputs(engine, weights), 1e-6)


def test_merged_equals_unmerged(engine):
    config = dataclasses.replace(CONFIG, lora_rank=4)
    weights = random_weights(config)
    assert weights.keys() == parameter_shapes(config).keys()
    unmerged = outputs(engine, weights)
    merged = merged_weights(weights)
    assert {name: array.shape for name, array in merged.items()} == parameter_shapes(CONFIG)
    close(outputs(engine, merged), unmerged, 2e-5)
    without = {name: np.zeros_like(array) if ".b." in name else array for name, array in weights.items()}
    assert np.abs(outputs(engine, without)[0] - unmerged[0]).max() > 1e-2, "they did something"


def test_the_gradients_of_adapters_are_those_of_the_weight(engine):
    """``dW A^T`` is that of B, and ``B^T dW`` that of A."""
    weights = random_weights()
    adapted = add_adapters(CONFIG, weights, 3)
    name = "backbone.layers.1.attention.value"
    a = adapted[f"{name}.a.weight"]
    b = np.random.default_rng(0).standard_normal((24, 3)).astype(np.float32) * 0.1
    adapted[f"{name}.b.weight"] = b
    values, visible, gene_ids, mask, chunk_cell, cls_row = ARRAYS

    def loss(xp, p, arrays, keys):
        total = network(xp, CONFIG, p, values_of(arrays), arrays[1], arrays[2:])[0][:, :5].sum()
        return total, total.reshape((1,))

    parts = [f"{name}.{part}.weight" for part in ("base", "a", "b")]
    _, found = differentiate(engine, loss, adapted, (values, visible, gene_ids, mask, chunk_cell, cls_row), parts)
    base = found[parts[0]]
    for gradient, expected in ((found[parts[1]], b.T @ base), (found[parts[2]], base @ a.T)):
        assert np.abs(expected).max() > 1e-4
        np.testing.assert_allclose(gradient, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def values_of(arrays):
    return arrays[0]


@pytest.mark.parametrize("last_layers", [None, 1])
def test_adapters_of_the_last_layers_alone(last_layers):
    weights = initial_weights(CONFIG)
    adapted = add_adapters(CONFIG, weights, 4, last_layers=last_layers)
    first = 0 if last_layers is None else CONFIG.n_layers - last_layers
    expected = {
        f"backbone.layers.{i}.{name}.a.weight" for i in range(first, CONFIG.n_layers) for name in projections(CONFIG)
    }
    assert {name for name in adapted if ".a." in name} == expected
    again = merged_weights(adapted)
    assert again.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(again[name], array)
