"""Laws of the network: how cells lie and in what order changes nothing; its options change what they should."""

import numpy as np
import pytest
from nn_inputs import (
    CONFIG,
    OUTPUTS,
    arrays_of,
    laid_out,
    of_layout,
    ragged,
    random_tokens,
    random_weights,
    with_options,
)
from numpy_operations import NumpyOperations
from on_engine import run

from cellfm.cells.tokenize import TokenBatch
from cellfm.nn.network import embed_cells, network, queries_and_keys
from cellfm.nn.parameters import parameter_shapes
from cellfm.nn.weights import nest

OPTIONS = [
    {},
    {"feed_forward": "ffn"},
    {"norm": "prenorm"},
    {"retention": "decay"},
    {"depth_tokens": True},
    {"zero_modelling": True},
    {"lora_rank": 2},
    {"feed_forward": "ffn", "norm": "prenorm", "retention": "decay", "depth_tokens": True},
]
LENGTHS = (150, 5, 63, 64)


def outputs_of(engine, tokens, config=CONFIG, *, visible=None, weights=None, **shape):
    """CLS of each cell, and tokens and values of each gene, as they come."""
    chunks = laid_out(tokens, config, **shape)
    weights = random_weights(config) if weights is None else weights
    found = run(engine, of_layout(network, config), weights, *arrays_of(chunks, visible))
    return ragged(found, chunks, tokens.n_cells)


def close(some, others, atol=1e-5):
    for name, one, other in zip(OUTPUTS, some, others, strict=True):
        np.testing.assert_allclose(one, other, atol=atol, rtol=1e-5, err_msg=name)


def hidden_some(n: int) -> np.ndarray:
    return (np.random.default_rng(1).random(n) >= 0.3).astype(np.float32)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_outputs_are_those_in_float64(engine, options):
    """And so both engines agree, whatever the options of the network."""
    config = with_options(**options)
    tokens = random_tokens(LENGTHS, zeros=0.2)
    chunks, visible = laid_out(tokens, config), hidden_some(sum(LENGTHS))
    weights = {name: array.astype(float) for name, array in random_weights(config).items()}
    expected = of_layout(network, config)(NumpyOperations(), nest(weights), *arrays_of(chunks, visible))
    close(outputs_of(engine, tokens, config, visible=visible), ragged(expected, chunks, tokens.n_cells), 2e-5)


@pytest.mark.parametrize("shape", [{"length": 16}, {"length": 512}, {"n_chunks": 40, "n_slots": 9}], ids=str)
def test_chunking_and_padding_change_nothing(engine, shape):
    tokens = random_tokens(LENGTHS)
    visible = hidden_some(sum(LENGTHS))
    close(outputs_of(engine, tokens, visible=visible), outputs_of(engine, tokens, visible=visible, **shape))


def test_the_order_of_tokens_does_not_matter(engine):
    tokens = random_tokens([200])
    order = np.random.default_rng(2).permutation(200)
    shuffled = TokenBatch(tokens.indptr, tokens.gene_ids[order], tokens.values[order], tokens.depth)
    cell, *genes = outputs_of(engine, tokens)
    close((cell, *(array[order] for array in genes)), outputs_of(engine, shuffled))


def test_decay_alone_depends_on_the_order_of_tokens(engine):
    tokens = random_tokens([200])
    backwards = TokenBatch(tokens.indptr, tokens.gene_ids[::-1].copy(), tokens.values[::-1].copy(), tokens.depth)
    config = with_options(retention="decay")
    change = outputs_of(engine, backwards, config)[0] - outputs_of(engine, tokens, config)[0]
    assert np.abs(change).max() > 1e-3


@pytest.mark.parametrize("options", [{}, {"retention": "decay"}, {"depth_tokens": True}], ids=str)
def test_cells_do_not_see_each_other(engine, options):
    config, together = with_options(**options), random_tokens([50, 90, 10])
    alone = TokenBatch(np.array([0, 90]), together.gene_ids[50:140], together.values[50:140], together.depth[1:2])
    found, expected = (outputs_of(engine, tokens, config)[0] for tokens in (together, alone))
    np.testing.assert_allclose(found[1], expected[0], atol=1e-5, rtol=0)


def test_hidden_values_have_no_influence_and_visible_ones_have(engine):
    tokens, visible = random_tokens([100]), np.ones(100, np.float32)
    visible[10:30] = 0
    other = tokens.values.copy()
    other[10:30] = 9.0
    changed = TokenBatch(tokens.indptr, tokens.gene_ids, other, tokens.depth)
    close(outputs_of(engine, tokens, visible=visible), outputs_of(engine, changed, visible=visible))
    assert np.abs(outputs_of(engine, changed)[0] - outputs_of(engine, tokens)[0]).max() > 1e-3


@pytest.mark.parametrize("options", [{"zero_modelling": True}, {"norm": "prenorm"}], ids=str)
def test_an_option_changes_the_embedding(engine, options):
    tokens = random_tokens([150], zeros=0.2)
    plain, other = (outputs_of(engine, tokens, with_options(**some))[0] for some in ({}, options))
    assert np.abs(other - plain).max() > 1e-2


def test_depth_tokens_read_the_depth_and_nothing_else_does(engine):
    tokens = random_tokens([150])
    deeper = TokenBatch(tokens.indptr, tokens.gene_ids, tokens.values, tokens.depth * 5)
    for config, least, most in ((with_options(depth_tokens=True), 1e-3, np.inf), (CONFIG, 0, 0)):
        change = outputs_of(engine, deeper, config)[0] - outputs_of(engine, tokens, config)[0]
        assert least <= np.abs(change).max() <= most


@pytest.mark.parametrize("options", [*OPTIONS[:6], {"n_layers": 1}], ids=str)
def test_cls_alone_is_that_of_the_whole_network(engine, options):
    config, tokens = with_options(**options), random_tokens([80, 200, 3])
    chunks = laid_out(tokens, config, n_slots=5, n_chunks=None if "retention" in options else 16)

    def alone(xp, config, p, values, visible, layout):
        return embed_cells(xp, config, p, values, layout)

    weights = random_weights(config)
    short = run(engine, of_layout(alone, config), weights, *arrays_of(chunks))[:3]
    np.testing.assert_allclose(short, outputs_of(engine, tokens, config, weights=weights)[0], atol=1e-5, rtol=0)


def test_queries_and_keys_are_those_of_their_layer(engine):
    """``K^T V`` of them, and all that follows, is what the layer adds: here its first, whose tokens are the input."""
    tokens = random_tokens([20, 5])
    chunks, weights = laid_out(tokens), random_weights()
    for layer in (0, 1):

        def compared(xp, config, p, values, visible, layout, layer=layer):
            return queries_and_keys(xp, config, p, values, layout, layer)

        cls_query, query, key = run(engine, of_layout(compared), weights, *arrays_of(chunks))
        exact = {name: array.astype(float) for name, array in weights.items()}
        expected = of_layout(compared)(NumpyOperations(), nest(exact), *arrays_of(chunks))
        for found, other in zip((cls_query, query, key), expected, strict=True):
            np.testing.assert_allclose(found, other, atol=1e-5, rtol=1e-5)
        np.testing.assert_array_equal(cls_query, query.reshape(-1, 24)[chunks.cls_row])
        assert query.min() == key.min() == 0


def test_a_compiled_network_is_the_network(engine):
    tokens = random_tokens([80, 200])
    chunks, weights = laid_out(tokens), random_weights()
    compiled = engine.compile(of_layout(network), engine.place(nest(weights)))
    found = ragged(tuple(map(np.asarray, compiled(*arrays_of(chunks)))), chunks, 2)
    close(found, outputs_of(engine, tokens, weights=weights))


def test_the_feed_forward_network_is_as_large_as_the_sglu():
    sizes = [
        sum(np.prod(shape) for shape in parameter_shapes(with_options(feed_forward=kind)).values())
        for kind in ("sglu", "ffn")
    ]
    assert sizes[0] == sizes[1]
