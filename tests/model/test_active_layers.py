"""Which layers' attention can be read: what is called inactive may hold any queries and keys, and nothing changes."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import cellfm as cf
from cellfm.cells.tokenize import tokenize
from cellfm.config import ModelConfig
from cellfm.errors import InputError
from cellfm.model import CellFM
from cellfm.nn.parameters import active_heads, attention_strengths, initial_weights, merged_weights

SHAPE = {"n_layers": 3, "d_model": 16, "n_heads": 2, "n_genes": 300, "d_value": 8}
PROJECTIONS = ("query", "key", "value", "gate", "output")


def without(weights, layer: int, name: str, dimensions=slice(None)):
    """The weights with some dimensions of a projection zeroed, adapters too."""
    changed = dict(weights)
    for part in ("", "base.", "b."):
        key = f"backbone.layers.{layer}.attention.{name}.{part}weight"
        if key in weights:
            changed[key] = weights[key].copy()
            changed[key][(slice(None), dimensions) if name == "output" else dimensions] = 0
    return changed


@pytest.fixture(scope="module")
def tokens():
    counts = np.random.default_rng(0).poisson(0.8, (5, 300))
    return tokenize(sp.csr_matrix(counts), np.arange(1, 301, dtype=np.int32), max_genes=300)


@pytest.mark.parametrize("name", PROJECTIONS)
@pytest.mark.parametrize("layer", [0, 2])
def test_other_noise_in_inactive_layers_changes_nothing(tiny_vocab, tokens, name, layer):
    config = ModelConfig(**SHAPE)
    model = CellFM(config, tiny_vocab, without(initial_weights(config, 3), layer, name))
    assert model.active_layers == tuple(i for i in range(3) if i != layer)
    noisy = dict(model.weights)
    generator = np.random.default_rng(1)
    for other in ("query", "key"):
        key = f"backbone.layers.{layer}.attention.{other}.weight"
        if name != other:
            noisy[key] = generator.standard_normal(noisy[key].shape).astype(np.float32)
    outputs = ("cell", "tokens")
    found, expected = (CellFM(config, tiny_vocab, w).encode(tokens, outputs=outputs) for w in (noisy, model.weights))
    np.testing.assert_allclose(found.cell, expected.cell, atol=1e-6)
    np.testing.assert_allclose(found.tokens, expected.tokens, atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(
    lora_rank=st.sampled_from([0, 2]),
    zeroed=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(PROJECTIONS),
            st.sampled_from([slice(None), slice(0, 8), slice(8, 16), slice(0, 16, 2), slice(1, 12)]),
        ),
        max_size=4,
    ),
)
def test_a_head_is_active_where_no_factor_of_what_it_adds_is_zero(lora_rank, zeroed):
    """Against its two products in full: query x key, and value x gate x output."""
    config = ModelConfig(**SHAPE, lora_rank=lora_rank)
    weights = initial_weights(config, 0)
    for place in zeroed:
        weights = without(weights, *place)
    merged = merged_weights(weights)
    expected = np.zeros((3, 2), bool)
    for layer in range(3):
        w = {name: merged[f"backbone.layers.{layer}.attention.{name}.weight"] for name in PROJECTIONS}
        for head in range(2):
            rows = range(8 * head, 8 * head + 8)
            compares = any(w["query"][i].any() and w["key"][i].any() for i in rows)
            adds = any(w["value"][i].any() and w["gate"][i].any() and w["output"][:, i].any() for i in rows)
            expected[layer, head] = compares and adds
    np.testing.assert_array_equal(active_heads(config, weights), expected)
    strengths = attention_strengths(config, weights)
    np.testing.assert_array_equal(strengths > 0, expected.any(1))
    assert strengths.max() == expected.any()


def test_the_last_active_layer_is_read(tiny_vocab, tokens):
    config = ModelConfig(**SHAPE)
    weights = without(without(initial_weights(config), 2, "gate"), 0, "gate")
    model = CellFM(config, tiny_vocab, weights, name="half")
    assert model.attention_layer() == model.attention_layer(-2) == model.attention_layer(1) == 1
    np.testing.assert_array_equal(model.attend(tokens).key, model.attend(tokens, layer=1).key)
    for layer in (0, 2, -1, -3):
        with pytest.raises(
            InputError, match=rf"Layer {layer % 3} of 'half' is inactive.*Active layers: 1 \(of 0 to 2\)"
        ):
            model.attend(tokens, layer=layer)
    for layer in (3, -4):
        with pytest.raises(InputError, match=rf"from -3 to 2, not {layer}"):
            model.attend(tokens, layer=layer)
    none = CellFM(config, tiny_vocab, without(weights, 1, "output"), name="none")
    assert none.active_layers == ()
    for layer in (None, 1):
        with pytest.raises(InputError, match="'none' cannot be read: all of its 3 layers are inactive"):
            none.attend(tokens, layer=layer)


def test_layers_that_add_next_to_nothing_are_read_only_when_asked_for(tiny_vocab):
    config = ModelConfig(**SHAPE)
    weights = initial_weights(config)
    for name, factor in (("gate", 0.01), ("output", 0.1)):  # as after a few steps of training from gates of zero
        key = f"backbone.layers.2.attention.{name}.weight"
        weights[key] = weights[key] * factor
    model = CellFM(config, tiny_vocab, weights)
    assert model.active_layers == (0, 1, 2)
    assert model.attention_strengths[2] == pytest.approx(0.001, rel=0.3)
    assert model.attention_layer() == 1
    assert model.attention_layer(-1) == 2


def test_layers_of_mini():
    mini = cf.load_model("mini")
    assert mini.active_layers == (0,)
    assert mini.active_heads[0].all()
    assert mini.attention_strengths.tolist() == [1.0]
