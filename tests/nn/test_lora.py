"""Adapters change nothing at the start, and merged adapters give what unmerged ones gave."""

import dataclasses

import mindspore as ms
import numpy as np
import pytest

from cellfm.config import ModelConfig
from cellfm.data import TokenBatch, chunk_cells
from cellfm.model._parameters import initial_weights, parameter_shapes
from cellfm.nn import add_lora, build_network, merge_lora, network_weights

CONFIG = ModelConfig(n_layers=2, d_model=16, n_heads=2, n_genes=50, d_value=8)


@pytest.fixture
def inputs():
    generator = np.random.default_rng(0)
    lengths = np.array([70, 5, 30])
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    ids = np.concatenate([generator.permutation(50)[: min(n, 50)] for n in (50, 20, 35)])[:105] + 1
    chunks = chunk_cells(TokenBatch(indptr, ids.astype(np.int32), generator.random(105, np.float32)), np.arange(3))
    visible = np.ones_like(chunks.mask)
    arrays = (chunks.gene_ids, chunks.values, visible, chunks.mask, chunks.chunk_cell, chunks.cls_row)
    return tuple(map(ms.Tensor, arrays))


def test_fresh_adapters_change_nothing(inputs):
    network = build_network(CONFIG, initial_weights(CONFIG))
    before = network(*inputs)[0].asnumpy()
    add_lora(network, 4)
    np.testing.assert_array_equal(network(*inputs)[0].asnumpy(), before)


def test_merged_equals_unmerged(inputs):
    config = dataclasses.replace(CONFIG, lora_rank=4)
    generator = np.random.default_rng(1)
    weights = initial_weights(config)
    for name in weights:
        if name.endswith(".b.weight"):
            weights[name] = generator.standard_normal(weights[name].shape).astype(np.float32) * 0.1
    network = build_network(config, weights)
    before = network(*inputs)[0].asnumpy()
    assert not np.allclose(before, build_network(config, initial_weights(config))(*inputs)[0].asnumpy(), atol=1e-3)
    merge_lora(network)
    np.testing.assert_allclose(network(*inputs)[0].asnumpy(), before, atol=1e-5)
    assert {name: array.shape for name, array in network_weights(network).items()} == parameter_shapes(CONFIG)


def test_adapters_of_the_last_layers_alone(inputs):
    weights = initial_weights(CONFIG)
    network = build_network(CONFIG, weights)
    add_lora(network, 4, last_layers=1)
    adapted = {name for name in network_weights(network) if ".a." in name}
    assert len(adapted) == 8
    assert all(name.startswith("backbone.layers.1.") for name in adapted)
    merge_lora(network)
    assert network_weights(network).keys() == weights.keys()


def test_network_has_the_declared_parameters():
    for config in (CONFIG, dataclasses.replace(CONFIG, lora_rank=3, n_layers=3)):
        network = build_network(config, initial_weights(config))
        shapes = {name: array.shape for name, array in network_weights(network).items()}
        assert shapes == parameter_shapes(config)
