"""A model gives the same whatever the batch, in few compiled shapes; a batch that does not fit is told which would."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
import scipy.sparse as sp

import cellfm as cf
from cellfm.cells.chunk import chunks_of
from cellfm.cells.tokenize import TokenBatch, tokenize
from cellfm.config import ModelConfig
from cellfm.engines import DeviceMemoryError
from cellfm.genes.vocabulary import Vocabulary
from cellfm.model import CellFM
from cellfm.model._encoder import n_slots_of
from cellfm.nn.parameters import GATES, n_active_layers


@pytest.fixture(scope="module")
def tokens(tiny_vocab: Vocabulary):
    counts = np.random.default_rng(0).poisson(0.8, (9, 300))
    counts[3] = 0
    return tokenize(sp.csr_matrix(counts), np.arange(1, 301, dtype=np.int32), max_genes=300)


def model_with(vocab: Vocabulary, n_layers: int = 3) -> CellFM:
    return CellFM(ModelConfig(n_layers, 32, 4, 300, d_value=16), vocab, backend="jax", random_state=3)


def test_one_gate_makes_a_layer_active(tiny_vocab):
    model = model_with(tiny_vocab, n_layers=2)
    names = [f"backbone.layers.1.{gate}.weight" for gate in GATES]
    for gate in names:
        others = {name: np.zeros_like(model.weights[name]) for name in names if name != gate}
        assert n_active_layers(model.config, {**model.weights, **others}) == 2
    assert n_active_layers(model.config, {**model.weights, **dict.fromkeys(names, np.zeros((32, 32)))}) == 1


def test_the_batch_changes_nothing(tiny_vocab, tokens):
    model = model_with(tiny_vocab)
    whole, single = (model.encode(tokens, batch_size=n).cell for n in (None, 1))
    np.testing.assert_allclose(single, whole, atol=1e-5, rtol=0)
    assert np.isnan(whole[3]).all()


def test_large_cells_of_any_size_share_shapes_that_hold_them(tiny_vocab):
    encoder = model_with(tiny_vocab)._encoder
    shapes = set()
    for n_genes in range(6_000, 12_000, 37):
        shape, _ = encoder._shape(SimpleNamespace(lengths=np.array([n_genes, 800, 20])), None)
        assert shape >= int(chunks_of(np.array(n_genes)))
        shapes.add(shape)
    assert len(shapes) < 6


def test_slots_hold_the_cells_that_fit_on_average():
    """At least as many, and at most four times as many; never none."""
    for mean in (0.5, 1, 1.9, 2, 3.9, 4, 16, 40, 96):
        slots = n_slots_of(96, np.full(3, mean))
        assert min(96, 96 / mean) <= slots <= min(96, 4 * 96 / mean)
    assert n_slots_of(1, np.array([50])) == n_slots_of(1, np.array([])) == 1


def test_small_and_large_cells_of_a_batch_are_those_alone(tiny_vocab):
    model, generator = model_with(tiny_vocab), np.random.default_rng(4)
    lengths = [3] * 30 + [290] * 3 + [1] * 30
    ids = np.concatenate([np.sort(generator.choice(300, n, replace=False)) + 1 for n in lengths]).astype(np.int32)
    ends = np.cumsum(lengths)
    values = generator.random(len(ids)).astype(np.float32)
    together = model.encode(TokenBatch(np.concatenate(([0], ends)), ids, values, None)).cell
    for cell in (0, 31, 40, 62):
        part = slice(ends[cell] - lengths[cell], ends[cell])
        alone = model.encode(TokenBatch(np.array([0, lengths[cell]]), ids[part], values[part], None)).cell
        np.testing.assert_allclose(together[cell], alone[0], atol=1e-5, rtol=0)


def test_mini_in_bfloat16_keeps_its_embeddings():
    counts = np.random.default_rng(0).poisson(0.5, (6, 2000))
    exact, rounded = (cf.load_model("mini", backend="jax", precision=kind) for kind in ("float32", "bfloat16"))
    cells = tokenize(sp.csr_matrix(counts), np.arange(1, 2001, dtype=np.int32), max_genes=exact.config.max_genes)
    exact, rounded = (model.encode(cells).cell for model in (exact, rounded))
    cosine = (exact * rounded).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    assert cosine.min() > 0.9999


def test_a_device_without_memory_is_told_which_batch_fits(tiny_adata, tiny_model, monkeypatch):
    def exhausted(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4096 bytes.")

    model = CellFM(tiny_model.config, tiny_model.vocab, tiny_model.weights, backend="jax")
    monkeypatch.setattr(model._encoder.network, "_cell", exhausted)
    for batch_size, advice in ((4, "batch_size=2 should fit"), (1, "compute with cf.settings.device = 'CPU'")):
        with pytest.raises(DeviceMemoryError, match=f"ran out of memory. .*{advice}"):
            cf.tl.embed(tiny_adata, model, batch_size=batch_size)
