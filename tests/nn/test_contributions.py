"""Laws of contributions: they add up to what attention adds to CLS; padding, order and batches change nothing."""

import numpy as np
import pytest
from nn_inputs import laid_out, random_tokens, random_weights, with_options
from numpy_operations import NumpyOperations

from cellfm.cells.tokenize import TokenBatch
from cellfm.errors import InputError
from cellfm.model import CellFM
from cellfm.model._network import CompiledNetwork
from cellfm.nn.attention import attention
from cellfm.nn.inference import has_short_form
from cellfm.nn.layout import cls_of
from cellfm.nn.network import attention_inputs, cls_contributions
from cellfm.nn.parameters import GATES, merged_weights
from cellfm.nn.weights import nest

LENGTHS = (70, 4, 63, 1)
XP = NumpyOperations()
OPTIONS = [
    {"n_layers": 3},
    {"n_layers": 3, "lora_rank": 2},
    {"n_layers": 6},
    {"norm": "prenorm"},
    {"feed_forward": "ffn"},
    {"depth_tokens": True},
    {"zero_modelling": True},
]


def case(options):
    """A network, cells with padding in several chunks, and directions."""
    config = with_options(**options)
    chunks = laid_out(random_tokens(LENGTHS, zeros=0.1), config, n_slots=5, n_chunks=8)
    directions = np.random.default_rng(5).standard_normal((3, config.d_model)).astype(np.float32)
    return config, random_weights(config, noise=0.05), chunks, directions


def exact(config, weights, chunks, directions, layer):
    """Contributions in float64, and the attention output of CLS along the directions, from its definition."""
    layout = (chunks.gene_ids, chunks.mask, chunks.chunk_cell, chunks.cls_row)
    p = nest({name: array.astype(float) for name, array in merged_weights(weights).items()})
    x, own, scale = attention_inputs(XP, config, p, chunks.values.astype(float), layout, layer)
    added = cls_of(XP, attention(XP, config, own, x, chunks.mask[..., None], scale, layout), layout)
    return cls_contributions(
        XP, config, p, chunks.values.astype(float), layout, directions, layer
    ), added @ directions.T


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_contributions_of_all_tokens_add_up_to_the_attention_output(options):
    config, weights, chunks, directions = case(options)
    for layer in range(config.n_layers):
        (of_cls, of_tokens), output = exact(config, weights, chunks, directions, layer)
        assert not of_tokens[chunks.mask == 0].any()
        total = XP.segment_sum(of_tokens.sum(1), chunks.chunk_cell, chunks.cls_row)
        np.testing.assert_allclose(total[:4], output[:4], rtol=1e-10)
        np.testing.assert_array_equal(of_cls, of_tokens.reshape(-1, 3)[chunks.cls_row])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_engines_give_those_in_float64(engine, options):
    """In the short form and in the plain one."""
    config, weights, chunks, directions = case(options)
    compiled = CompiledNetwork(config, weights, engine)
    assert compiled.short == has_short_form(config)
    for layer in (0, config.n_layers - 1):
        (of_cls, of_tokens), _ = exact(config, weights, chunks, directions, layer)
        found = [np.asarray(array) for array in compiled.contributions(chunks, directions, layer)]
        np.testing.assert_allclose(found[0][:4], of_cls[:4], atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(found[1], of_tokens, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_tables_of_the_only_active_layer_give_those_in_float64(engine, n_layers):
    """Layers above it are inactive, and its keys are few."""
    config, weights, chunks, directions = case({"n_layers": n_layers})
    key = "backbone.layers.0.attention.key.weight"
    weights[key] = weights[key][np.arange(config.d_model) % 3]
    for layer in range(1, n_layers):
        for gate in GATES:
            name = f"backbone.layers.{layer}.{gate}.weight"
            weights[name] = np.zeros_like(weights[name])
    compiled = CompiledNetwork(config, weights, engine)
    assert "learned_cls" in compiled._weights
    (of_cls, of_tokens), _ = exact(config, weights, chunks, directions, 0)
    found = [np.asarray(array) for array in compiled.contributions(chunks, directions, 0)]
    np.testing.assert_allclose(found[0][:4], of_cls[:4], atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(found[1], of_tokens, atol=1e-5, rtol=1e-4)


def test_order_batches_and_other_cells_change_nothing(tiny_vocab, tiny_model):
    tokens, generator = random_tokens([150, 5, 63, 200], len(tiny_vocab)), np.random.default_rng(2)
    directions = generator.standard_normal((2, tiny_model.config.d_model))
    found = tiny_model.contributions(tokens, directions)
    alone = tiny_model.contributions(tokens, directions, batch_size=1)
    np.testing.assert_allclose(alone.genes, found.genes, atol=1e-6)
    np.testing.assert_allclose(alone.cls, found.cls, atol=1e-6)
    order = generator.permutation(150)
    one = TokenBatch(np.array([0, 150]), tokens.gene_ids[order], tokens.values[order], tokens.depth[:1])
    shuffled = tiny_model.contributions(one, directions)
    np.testing.assert_allclose(shuffled.genes, found.genes[order], atol=1e-6)
    np.testing.assert_allclose(shuffled.cls, found.cls[:1], atol=1e-6)


def test_inactive_layers_and_other_directions_are_refused(tiny_vocab, tiny_model):
    tokens, weights = random_tokens([9], len(tiny_vocab)), dict(tiny_model.weights)
    weights["backbone.layers.1.attention.gate.weight"] = np.zeros((16, 16), np.float32)
    half = CellFM(tiny_model.config, tiny_vocab, weights, name="half")
    with pytest.raises(InputError, match="Layer 1 of 'half' is inactive.*Active layers: 0 "):
        half.contributions(tokens, np.ones((1, 16)), layer=1)
    with pytest.raises(InputError, match=r"must have the shape \(n_directions, 16\), not \(16,\)"):
        half.contributions(tokens, np.ones(16))
