"""What inference does faster equals the plain network: every short cut, alone and together."""

import numpy as np
import pytest
from nn_inputs import OUTPUTS, laid_out, random_tokens, random_weights, with_options
from numpy_operations import NumpyOperations
from on_engine import as_numpy

from cellfm.engines import start_engine
from cellfm.model._network import CompiledNetwork
from cellfm.nn import inference
from cellfm.nn.inference import (
    STACKED_FROM,
    arrange,
    encode_cells,
    for_cells,
    has_short_form,
    precompute_tables,
    tokens_that_pay,
)
from cellfm.nn.network import network, queries_and_keys
from cellfm.nn.parameters import GATES, n_active_layers
from cellfm.nn.weights import nest

LENGTHS = (70, 4, 63, 1)
DEEP = 6


def inputs(config):
    chunks = laid_out(random_tokens(LENGTHS, zeros=0.1), config, n_slots=5, n_chunks=8)
    return chunks, (chunks.gene_ids, chunks.mask, chunks.chunk_cell, chunks.cls_row)


def exact(config, weights):
    """Outputs of the plain network in float64, and which tokens there are."""
    chunks, layout = inputs(config)
    flat = {name: array.astype(float) for name, array in weights.items()}
    found = network(NumpyOperations(), config, nest(flat), chunks.values.astype(float), chunks.mask, layout)
    return found, chunks


def close(found, expected, chunks, atol=1e-5):
    rows = chunks.token_row
    for name, one, other in zip(OUTPUTS, found, expected, strict=True):
        if name == "cell":
            one, other = one[: len(LENGTHS)], other[: len(LENGTHS)]
        else:
            one, other = (x.reshape(-1, *x.shape[2:])[rows] for x in (one, other))
        np.testing.assert_allclose(one, other, atol=atol, rtol=atol, err_msg=name)


def without_gates(weights, *layers: int):
    closed = {f"backbone.layers.{i}.{gate}.weight" for i in layers for gate in GATES}
    return {name: np.zeros_like(array) if name in closed else array for name, array in weights.items()}


def compiled_outputs(engine, config, weights, *, folded=False):
    """What users get: all outputs, and CLS alone, with or without tables of the first layer."""
    compiled = CompiledNetwork(config, weights, engine)
    chunks, _ = inputs(config)
    if folded:
        compiled._min_tokens = 0
        compiled.prepare(1)
        assert "tables" in compiled._of_cells
    everything = compiled.outputs(chunks)
    return [np.asarray(everything[name]) for name in OUTPUTS], np.asarray(compiled.cell(chunks))


@pytest.mark.parametrize("retention", ["linear", "decay"])
def test_outputs_are_the_same_alone(engine, retention):
    config = with_options(n_layers=2, retention=retention)
    compiled = CompiledNetwork(config, random_weights(config, noise=0.05), engine)
    chunks, _ = inputs(config)
    together = compiled.outputs(chunks)
    for names in (("tokens",), ("cell_wise", "cell")):
        alone = compiled.outputs(chunks, names)
        assert tuple(alone) == names
        for name in names:
            np.testing.assert_allclose(alone[name], together[name], atol=1e-5, rtol=0, err_msg=name)


@pytest.mark.parametrize("n_layers", [1, 3, DEEP])
def test_arranged_networks_and_cls_alone_equal_the_plain_one(engine, n_layers):
    """With many layers their weights are stacked; adapters are merged first."""
    config = with_options(n_layers=n_layers, lora_rank=2 if n_layers == 3 else 0)
    weights = random_weights(config, noise=0.05)
    expected, chunks = exact(config, weights)
    found, cell = compiled_outputs(engine, config, weights)
    close(found, expected, chunks)
    np.testing.assert_allclose(cell[:4], expected[0][:4], atol=1e-5, rtol=0)
    below = arrange(config, weights)["below"]
    assert isinstance(below, tuple) == (n_layers - 1 < STACKED_FROM)


@pytest.mark.parametrize("n_layers", [2, DEEP])
def test_tables_of_the_first_layer_change_nothing(engine, n_layers):
    config = with_options(n_layers=n_layers)
    weights = random_weights(config, noise=0.05)
    expected, _ = exact(config, weights)
    _, cell = compiled_outputs(engine, config, weights, folded=True)
    np.testing.assert_allclose(cell[:4], expected[0][:4], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("n_layers", "inactive", "n_active"),
    [(4, (), 4), (4, (1, 2, 3), 1), (4, (1,), 4), (3, (0, 1, 2), 1), (DEEP, (5,), 5), (DEEP, (3, 4, 5), 3)],
)
def test_inactive_layers_are_skipped_and_change_nothing(n_layers, inactive, n_active):
    """In float64, where it holds to more than the precision of any engine; with tables, too."""
    config, xp = with_options(n_layers=n_layers), NumpyOperations()
    weights = without_gates(random_weights(config), *inactive)
    expected, chunks = exact(config, weights)
    assert n_active_layers(config, weights) == n_active
    flat = {name: array.astype(float) for name, array in weights.items()}
    short = for_cells(config, flat, arrange(config, flat, np.float64))
    assert len(short["inactive"]) == 2 * (n_layers - n_active)
    _, layout = inputs(config)
    ways = [short]
    if n_active > 1:
        ways.append(inference.with_tables(short, precompute_tables(xp, short)))
    for way in ways:
        found = encode_cells(xp, config, way, chunks.values.astype(float), layout)
        np.testing.assert_allclose(found[:4], expected[0][:4], atol=1e-9)


def with_few_keys(config, weights, n: int):
    """Keys of the first layer are `n` different ones, repeated, as after the co-expression start."""
    name = "backbone.layers.0.attention.key.weight"
    return weights | {name: weights[name][np.arange(config.d_model) % n]}


@pytest.mark.parametrize("n_layers", [1, 3])
def test_keys_of_the_only_active_layer_are_tables(engine, n_layers):
    """CLS asks all cells the same, so that equal keys are read once; many different keys are left alone."""
    config = with_options(n_layers=n_layers)
    many = without_gates(random_weights(config, noise=0.05), *range(1, n_layers))
    few = with_few_keys(config, many, 3)
    assert "learned_cls" not in CompiledNetwork(config, many, engine)._of_cells
    expected, _ = exact(config, few)
    compiled = CompiledNetwork(config, few, engine)
    assert compiled._of_cells["learned_cls"]["keys"]["gene"].shape == (config.n_gene_rows, 3)
    np.testing.assert_allclose(np.asarray(compiled.cell(inputs(config)[0]))[:4], expected[0][:4], atol=1e-5, rtol=0)

    flat = {name: array.astype(float) for name, array in few.items()}
    short = for_cells(config, flat, arrange(config, flat, np.float64))
    found = encode_cells(NumpyOperations(), config, short, inputs(config)[0].values.astype(float), inputs(config)[1])
    np.testing.assert_allclose(found[:4], expected[0][:4], atol=1e-9)


def test_an_engine_skips_inactive_layers(engine):
    config = with_options(n_layers=3)
    weights = without_gates(random_weights(config), 2)
    expected, _ = exact(config, weights)
    compiled = CompiledNetwork(config, weights, engine)
    assert len(compiled._of_cells["inactive"]) == 2
    np.testing.assert_allclose(np.asarray(compiled.cell(inputs(config)[0]))[:4], expected[0][:4], atol=1e-5, rtol=0)


@pytest.mark.parametrize("n_layers", [3, DEEP])
def test_queries_and_keys_are_those_of_the_plain_network(engine, n_layers):
    config = with_options(n_layers=n_layers)
    weights = random_weights(config, noise=0.05)
    chunks, layout = inputs(config)
    flat = {name: array.astype(float) for name, array in weights.items()}
    compiled = CompiledNetwork(config, weights, engine)
    for layer in (0, n_layers - 1):
        expected = queries_and_keys(NumpyOperations(), config, nest(flat), chunks.values, layout, layer)
        for found, other in zip(as_numpy(compiled.attend(chunks, layer)), expected, strict=True):
            rows = slice(4) if found.ndim == 2 else chunks.mask > 0
            np.testing.assert_allclose(found[rows], other[rows], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("folded", [False, True])
def test_bfloat16_is_close(folded):
    config = with_options(n_layers=DEEP)
    weights = random_weights(config, noise=0.05)
    expected, chunks = exact(config, weights)
    found, cell = compiled_outputs(start_engine("jax", "bfloat16"), config, weights, folded=folded)
    tokens = [x.reshape(-1, config.d_model)[chunks.token_row] for x in (found[1], expected[1])]
    for some, others in ((found[0][:4], expected[0][:4]), (cell[:4], expected[0][:4]), tokens):
        lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
        assert ((some * others).sum(1) / lengths).min() > 0.995
        assert not np.allclose(some, others, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"feed_forward": "ffn"},
        {"norm": "prenorm"},
        {"retention": "decay"},
        {"depth_tokens": True},
        {"zero_modelling": True},
        {"norm": "prenorm", "lora_rank": 2},
    ],
    ids=str,
)
def test_other_forms_take_the_plain_path(engine, options):
    config = with_options(**options)
    weights = random_weights(config)
    assert not has_short_form(config)
    expected, chunks = exact(config, weights)
    found, cell = compiled_outputs(engine, config, weights)
    close(found, expected, chunks, atol=2e-5)
    np.testing.assert_allclose(cell[:4], expected[0][:4], atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("shape", "gigabytes", "pays"),
    [
        ({"d_model": 512}, 1.0, True),
        ({"d_model": 512}, 0.0001, False),
        ({"d_model": 256}, 1.0, False),
        ({"d_model": 512, "n_layers": 40}, 1.0, False),
        ({"d_model": 512, "n_layers": 1}, 1.0, False),
    ],
)
def test_tables_where_they_pay(shape, gigabytes, pays):
    config = with_options(**{"n_heads": 4} | shape)
    assert np.isfinite(tokens_that_pay(config, config.n_layers, bytes_of_a_number=4, max_gb=gigabytes)) == pays
