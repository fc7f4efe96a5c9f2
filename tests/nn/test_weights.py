"""Flat names become the nested weights that the network takes; initial weights are those of their shapes and seed."""

import numpy as np
import pytest

from cellfm.config import ModelConfig
from cellfm.nn.parameters import initial_weights, parameter_shapes
from cellfm.nn.weights import nest


def test_names_are_nested_and_numbers_become_places():
    flat = {
        "backbone.layers.1.gate.weight": 1,
        "backbone.layers.0.gate.weight": 0,
        "head.layers.0.bias": 2,
        "head.bias": 3,
        "scale": 4,
    }
    assert nest(flat) == {
        "backbone": ({"gate": {"weight": 0}}, {"gate": {"weight": 1}}),
        "head": {"layers": ({"bias": 2},), "bias": 3},
        "scale": 4,
    }


def depth(tree) -> int:
    if isinstance(tree, dict):
        return 1 + max(map(depth, tree.values()))
    return 1 + max(map(depth, tree)) if isinstance(tree, tuple) and isinstance(tree[0], dict) else 0


def test_weights_with_adapters_are_nested_no_deeper_than_mindspore_allows():
    config = ModelConfig(2, 16, 2, 50, lora_rank=2, depth_tokens=True, zero_modelling=True)
    assert depth(nest(parameter_shapes(config))) == 6


@pytest.mark.parametrize("options", [{}, {"feed_forward": "ffn", "lora_rank": 3}, {"depth_tokens": True}], ids=str)
def test_initial_weights_have_the_declared_shapes_and_follow_the_seed(options):
    config = ModelConfig(2, 16, 2, 50, d_value=8, **options)
    some, same, other = (initial_weights(config, seed) for seed in (0, 0, 1))
    assert {name: array.shape for name, array in some.items()} == parameter_shapes(config)
    assert {array.dtype for array in some.values()} == {np.dtype(np.float32)}
    for name, array in some.items():
        np.testing.assert_array_equal(array, same[name])
    assert np.abs(some["embed.gene"] - other["embed.gene"]).max() > 0
    assert not some["embed.gene"][0].any(), "padding"
