"""Options of the network: each changes what it says, keeps the laws that it should, and has the declared parameters."""

import dataclasses

import numpy as np
import pytest

from cellfm.config import ModelConfig
from cellfm.data import TokenBatch
from cellfm.model import CellFM
from cellfm.model._parameters import initial_weights, parameter_shapes
from cellfm.nn import build_network, network_weights

CONFIG = ModelConfig(n_layers=2, d_model=16, n_heads=2, n_genes=300, d_value=8, max_genes=200)
OPTIONS = [
    {"feed_forward": "ffn"},
    {"norm": "prenorm"},
    {"retention": "decay"},
    {"depth_tokens": True},
    {"zero_modelling": True},
    {"feed_forward": "ffn", "norm": "prenorm", "retention": "decay"},
]


def tokens(lengths=(150, 3, 63, 64), scale=1.0) -> TokenBatch:
    generator = np.random.default_rng(0)
    ids = np.concatenate([np.sort(generator.permutation(300)[:n]) + 1 for n in lengths])
    values = generator.random(len(ids), np.float32) + 0.1
    depth = np.array(lengths, np.float32) * 10 * scale
    return TokenBatch(np.concatenate(([0], np.cumsum(lengths))), ids.astype(np.int32), values, depth)


def model_of(vocab, **options) -> CellFM:
    return CellFM(dataclasses.replace(CONFIG, **options), vocab, random_state=1)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_declared_parameters_are_those_of_the_network(options):
    config = dataclasses.replace(CONFIG, **options)
    found = {
        name: array.shape for name, array in network_weights(build_network(config, initial_weights(config))).items()
    }
    assert found == parameter_shapes(config)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_cells_do_not_depend_on_each_other(tiny_vocab, options):
    model, together = model_of(tiny_vocab, **options), tokens()
    cells = model.encode(together).cell
    alone = TokenBatch(np.array([0, 63]), together.gene_ids[153:216], together.values[153:216], together.depth[2:3])
    np.testing.assert_allclose(model.encode(alone).cell[0], cells[2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", OPTIONS[:4], ids=str)
def test_option_changes_the_embedding(tiny_vocab, options):
    plain = model_of(tiny_vocab).encode(tokens()).cell
    assert np.abs(model_of(tiny_vocab, **options).encode(tokens()).cell - plain).max() > 1e-2


def test_depth_tokens_read_the_depth(tiny_vocab):
    with_depth, without = model_of(tiny_vocab, depth_tokens=True), model_of(tiny_vocab)
    for model, least, most in ((with_depth, 1e-3, np.inf), (without, 0.0, 0.0)):
        change = np.abs(model.encode(tokens(scale=5)).cell - model.encode(tokens()).cell).max()
        assert least <= change <= most


def test_decay_depends_on_the_order_of_the_genes(tiny_vocab):
    batch = tokens((150,))
    backwards = TokenBatch(batch.indptr, batch.gene_ids[::-1].copy(), batch.values[::-1].copy(), batch.depth)
    for options, depends in (({"retention": "decay"}, True), ({}, False)):
        model = model_of(tiny_vocab, **options)
        change = np.abs(model.encode(backwards).cell - model.encode(batch).cell).max()
        assert (change > 1e-4) == depends


def test_feed_forward_is_as_large_as_the_sglu():
    sizes = [
        sum(np.prod(shape) for shape in parameter_shapes(dataclasses.replace(CONFIG, feed_forward=kind)).values())
        for kind in ("sglu", "ffn")
    ]
    assert sizes[0] == sizes[1]
