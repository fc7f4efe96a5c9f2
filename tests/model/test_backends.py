"""Both backends say the same, whatever the batch; the choice between them is checked first."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

import cellfm as cf
from cellfm.config import ModelConfig
from cellfm.data import chunks_of, tokenize
from cellfm.errors import InputError
from cellfm.model import CellFM
from cellfm.model._engine import start_engine
from cellfm.model._jax import tokens_that_pay
from cellfm.model._parameters import GATES, n_open_layers
from cellfm.vocab import Vocabulary


@pytest.fixture(scope="module")
def tokens(tiny_vocab: Vocabulary):
    counts = np.random.default_rng(0).poisson(0.8, (9, 300))
    counts[3] = 0
    return tokenize(sp.csr_matrix(counts), np.arange(1, 301, dtype=np.int32), max_genes=300)


def model_with(vocab: Vocabulary, weights=None, *, backend="jax", precision="float32", **shape) -> CellFM:
    config = ModelConfig(**{"n_layers": 3, "d_model": 32, "n_heads": 4, "n_genes": 300, "d_value": 16} | shape)
    return CellFM(config, vocab, weights, backend=backend, precision=precision, random_state=3)


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_backends_agree(tiny_vocab, tokens, n_layers, lora_rank):
    ours = model_with(tiny_vocab, n_layers=n_layers, lora_rank=lora_rank)
    generator = np.random.default_rng(1)
    weights = {  # no weight at a value that hides its part
        name: array if name == "embed.gene" else array + 0.1 * generator.standard_normal(array.shape, np.float32)
        for name, array in ours.weights.items()
    }
    jax, mindspore = (
        model_with(tiny_vocab, weights, backend=backend, n_layers=n_layers, lora_rank=lora_rank)
        for backend in ("jax", "mindspore")
    )
    names = ("cell", "tokens", "gene_wise", "cell_wise")
    found, expected = (model.encode(tokens, outputs=names) for model in (jax, mindspore))
    for name in names:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(jax.encode(tokens).cell, expected.cell, atol=1e-5, rtol=1e-4)
    for layer in {0, n_layers - 1}:
        found, expected = (model.attend(tokens, layer=layer) for model in (jax, mindspore))
        for name in ("cls_query", "query", "key"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("closed", "n_open"), [((), 4), ((3,), 3), ((1, 2, 3), 1), ((1,), 4), ((0, 1, 2, 3), 1)])
def test_closed_layers_are_left_out_and_change_nothing(tiny_vocab, tokens, closed, n_open):
    generator = np.random.default_rng(2)
    weights = {
        name: array if name == "embed.gene" else array + 0.1 * generator.standard_normal(array.shape, np.float32)
        for name, array in model_with(tiny_vocab, n_layers=4).weights.items()
    }
    for layer in closed:
        for gate in GATES:
            weights[f"backbone.layers.{layer}.{gate}.weight"] = np.zeros((32, 32), np.float32)
    jax, mindspore = (model_with(tiny_vocab, weights, n_layers=4, backend=kind) for kind in ("jax", "mindspore"))
    assert n_open_layers(jax.config, weights) == n_open
    np.testing.assert_allclose(jax.encode(tokens).cell, mindspore.encode(tokens).cell, atol=1e-5, rtol=1e-4)
    assert len(jax._engine.network._for_cell["closed"]) == 2 * (4 - n_open)


def test_an_open_gate_is_enough(tiny_vocab):
    model = model_with(tiny_vocab, n_layers=2)
    names = [f"backbone.layers.1.{gate}.weight" for gate in GATES]
    for open_gate in names:
        others = {name: np.zeros_like(model.weights[name]) for name in names if name != open_gate}
        assert n_open_layers(model.config, {**model.weights, **others}) == 2
    assert n_open_layers(model.config, {**model.weights, **dict.fromkeys(names, np.zeros((32, 32)))}) == 1


def test_jax_does_not_depend_on_the_batch(tiny_vocab, tokens):
    model = model_with(tiny_vocab)
    whole, single = (model.encode(tokens, batch_size=n).cell for n in (None, 1))
    np.testing.assert_allclose(single, whole, atol=1e-5, rtol=0)
    assert np.isnan(whole[3]).all()


def test_a_folded_first_layer_changes_nothing(tiny_vocab, tokens, monkeypatch):
    wide = {"d_model": 512, "n_layers": 2, "d_value": 16}
    plain, folded = (model_with(tiny_vocab, **wide) for _ in range(2))
    plain._weights = folded._weights
    folded.expect(10**9)
    assert "folded" in folded._engine.network._for_cell
    assert "folded" not in plain._engine.network._for_cell
    np.testing.assert_allclose(folded.encode(tokens).cell, plain.encode(tokens).cell, atol=1e-5, rtol=0)
    np.testing.assert_allclose(
        folded.encode(tokens, outputs=("tokens",)).tokens,
        plain.encode(tokens, outputs=("tokens",)).tokens,
        atol=1e-5,
        rtol=0,
    )


def test_large_cells_of_any_size_share_shapes_that_hold_them(tiny_vocab):
    engine = model_with(tiny_vocab)._engine
    shapes = set()
    for n_genes in range(6_000, 12_000, 37):
        shape, _ = engine._shape(SimpleNamespace(lengths=np.array([n_genes, 800, 20])), None)
        assert shape >= int(chunks_of(np.array(n_genes)))
        shapes.add(shape)
    assert len(shapes) < 6


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
def test_folding_where_it_pays(monkeypatch, shape, gigabytes, pays):
    monkeypatch.setattr(cf.settings, "folding_gb", gigabytes)
    config = ModelConfig(**{"n_layers": 2, "n_heads": 4, "n_genes": 300, "d_value": 16} | shape)
    assert np.isfinite(tokens_that_pay(config, config.n_layers, bytes_of_a_number=4)) == pays


def test_bfloat16_is_close_and_not_the_same(tiny_vocab, tokens):
    exact, rounded = (model_with(tiny_vocab, precision=kind).encode(tokens).cell for kind in ("float32", "bfloat16"))
    exact, rounded = (np.delete(x, 3, axis=0) for x in (exact, rounded))
    cosine = (exact * rounded).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    assert cosine.min() > 0.9999
    assert not np.array_equal(exact, rounded)


def test_mini_in_bfloat16_keeps_its_embeddings():
    counts = np.random.default_rng(0).poisson(0.5, (6, 2000))
    exact, rounded = (cf.load_model("mini", backend="jax", precision=kind) for kind in ("float32", "bfloat16"))
    cells = tokenize(sp.csr_matrix(counts), np.arange(1, 2001, dtype=np.int32), max_genes=exact.config.max_genes)
    exact, rounded = (model.encode(cells).cell for model in (exact, rounded))
    cosine = (exact * rounded).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    assert cosine.min() > 0.9999


@pytest.mark.parametrize(
    ("shape", "said"),
    [({"depth_tokens": True}, "depth tokens"), ({"norm": "prenorm"}, "ablations"), ({"zero_modelling": True}, "zero")],
)
def test_jax_says_what_it_does_not_know_and_auto_goes_round(tiny_vocab, tokens, shape, said):
    with pytest.raises(InputError, match=said):
        model_with(tiny_vocab, **shape).encode(tokens)
    model = model_with(tiny_vocab, **shape)
    assert type(start_engine(model.config, model.weights, "auto", "float32").network).__name__ == "MindSporeNetwork"


def test_auto_takes_the_fastest_that_is_there(tiny_vocab, monkeypatch):
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    model = model_with(tiny_vocab)
    for device in ("auto", "CPU"):
        monkeypatch.setattr(cf.settings, "device", device)
        network = start_engine(model.config, model.weights, "auto", "float32").network
        assert type(network).__name__ == "JaxNetwork"
        assert network.on_cpu or device == "auto"


@pytest.mark.parametrize(
    "wrong",
    [{"backend": "torch"}, {"precision": "float16"}, {"backend": "mindspore", "precision": "bfloat16"}],
)
def test_wrong_choices_are_refused_before_anything_is_read(wrong):
    with pytest.raises(InputError, match=[*wrong.values()][-1]):
        cf.load_model("no such model", **wrong)
