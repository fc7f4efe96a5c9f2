"""Learning classes through the network: what the loss is, what a method trains, and that it learns."""

import jax
import numpy as np
import pytest
import scipy.sparse as sp

from cellfm.cells.tokenize import tokenize
from cellfm.config import ModelConfig
from cellfm.engines.jax.operations import JaxOperations
from cellfm.model import CellFM
from cellfm.nn.heads import mlp_head, mlp_head_weights
from cellfm.nn.network import network
from cellfm.nn.objectives import cross_entropy
from cellfm.nn.weights import nest
from cellfm.tasks.annotation._head import MLPHead as ArrayHead
from cellfm.tasks.annotation._mlp import MLP, LabelledCells, fit_mlp
from cellfm.train._classify import objective_of, train_classifier
from cellfm.train._classify_feed import TokenBatches
from cellfm.train._classify_score import TokenScorer

SAME = {"atol": 1e-5, "rtol": 1e-4}
XP = JaxOperations()


@pytest.fixture(scope="module")
def model(tiny_vocab):
    return CellFM(ModelConfig(2, 16, 2, len(tiny_vocab), d_value=8, max_genes=300), tiny_vocab, random_state=2)


@pytest.fixture
def tokens(tiny_adata):
    ids = np.concatenate((np.arange(1, 301), np.zeros(20))).astype(np.int32)
    return tokenize(tiny_adata.X, ids, max_genes=300)


@pytest.fixture
def kind(tiny_adata):
    return tiny_adata.obs["label"].cat.codes.to_numpy().astype(np.int64)


def batches(model, tokens, kind, **options):
    settings = {"batch_size": 8, "n_chunks": 48, "random_state": 0} | options
    held_out = np.arange(len(kind)) % 5 == 0
    return TokenBatches(tokens, model.config, kind, np.ones(len(kind), np.float32), held_out, **settings)


def train(model, tokens, kind, **options):
    weight, held_out = np.ones(len(kind), np.float32), np.arange(len(kind)) % 5 == 0
    cls = model.encode(tokens).cell
    start, _ = fit_mlp(MLP.start(cls, 2, 1, 0), LabelledCells(cls, kind, weight), n_iterations=1)
    settings = {
        "head": ArrayHead(start).arrays(),
        "method": "lora",
        "lora_rank": 4,
        "n_epochs": 4,
        "batch_size": 8,
        "learning_rate": 5e-4,
        "patience": 9,
        "random_state": 0,
    } | options
    return train_classifier(model, tokens, kind, weight, held_out, 2, **settings)


def test_the_loss_is_weighted_cross_entropy():
    generator = np.random.default_rng(0)
    logits, kind = generator.standard_normal((5, 3)).astype(np.float32), np.array([0, 2, 1, 1, 0], np.int32)
    weight = np.array([0.1, 0.4, 0.2, 0.3, 0.0], np.float32)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = sum(-w * np.log(p[i, k]) for i, (k, w) in enumerate(zip(kind, weight, strict=True)))
    found = cross_entropy(XP, logits, kind, weight)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_each_epoch_shows_every_training_cell_once(model, tokens):
    feed = batches(model, tokens, np.arange(tokens.n_cells), n_chunks=12)  # the class tells which cell it is

    def seen(some) -> list[int]:
        return sorted(int(cell) for batch in some for micro in batch.micro for cell in micro.label[micro.weight > 0])

    for epoch in range(2):
        steps = epoch * feed.steps_per_epoch + np.arange(feed.steps_per_epoch)
        assert seen(map(feed.batch, steps)) == list(np.flatnonzero(~feed.held_out))
    assert seen(feed.validation()) == list(np.flatnonzero(feed.held_out))
    first, later = (feed.batch(step).micro[0].label for step in (0, feed.steps_per_epoch))
    assert (first != later).any()


def mlp_arrays(cls: np.ndarray, n_layers: int) -> dict[str, np.ndarray]:
    """An MLP head whose last layer does not begin at zero."""
    output = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
    arrays = mlp_head_weights(16, 2, n_layers=n_layers, random_state=1) | {"output.linear.weight": output}
    return arrays | {"mean": cls.mean(0), "scale": cls.std(0)}


@pytest.mark.parametrize("head", ["mlp", "query"])
def test_micro_batches_add_up_to_the_batch(model, tokens, kind, head):
    start = None if head == "query" else mlp_arrays(model.encode(tokens).cell, 2)
    objective = objective_of(model.config, start, 2, 1)
    weights = jax.tree.map(jax.numpy.asarray, nest(model.weights | objective.weights))
    of_micro = jax.jit(lambda arrays: objective.loss(XP, weights, arrays, None)[0])

    def loss(n_chunks: int) -> tuple[float, int]:
        micro = batches(model, tokens, kind, n_chunks=n_chunks).batch(0).micro
        return sum(float(of_micro(tuple(part))) for part in micro), len(micro)

    (whole, one), (parts, many) = loss(48), loss(12)
    assert one == 1
    assert many > 1
    assert parts == pytest.approx(whole, rel=1e-4)


def test_the_loss_is_that_of_the_whole_network(model, tokens, kind):
    objective = objective_of(model.config, mlp_arrays(model.encode(tokens).cell, 1), 2, 0)
    weights = jax.tree.map(jax.numpy.asarray, nest(model.weights | objective.weights))

    def naive(arrays):
        gene_ids, values, visible, mask, chunk_cell, cls_row, label, weight = arrays
        cell = network(XP, model.config, weights, values, visible, (gene_ids, mask, chunk_cell, cls_row))[0]
        logits = mlp_head(XP, weights["head"], cell, weights["fixed"]["mean"], weights["fixed"]["inv_scale"])
        return cross_entropy(XP, logits, label, weight)

    def both(arrays):
        return objective.loss(XP, weights, arrays, None)[0], naive(arrays)

    some, other = jax.jit(both)(tuple(batches(model, tokens, kind).batch(0).micro[0]))
    assert float(some) == pytest.approx(float(other), rel=1e-4)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_is_trained_learns_and_never_ends_worse(model, tokens, kind, method):
    tuned, head, history = train(model, tokens, kind, method=method)
    if method == "lora":  # and the same seed gives the same
        again, other_head, _ = train(model, tokens, kind, method=method)
        for name, array in tuned.weights.items():
            np.testing.assert_array_equal(array, again.weights[name])
        np.testing.assert_array_equal(head["output.linear.weight"], other_head["output.linear.weight"])
    losses = history["validation_loss"]
    assert losses.min() < 0.7 * losses.iloc[0]
    assert list(history) == ["step", "loss", "validation_loss"]
    changed = {name for name, array in model.weights.items() if not np.array_equal(array, tuned.weights[name])}
    assert ("embed.gene" in changed) == (method == "full")
    assert any(".attention." in name for name in changed)


def test_a_query_head_learns_on_a_frozen_model(tiny_adata, model, kind):
    # Kinds that express different genes, and gene vectors that differ as those of a trained model do.
    counts = tiny_adata.X.toarray()
    for cell, of_kind in zip(counts, kind, strict=True):
        cell[150 * of_kind : 150 * (of_kind + 1)] = 0
    ids = np.concatenate((np.arange(1, 301), np.zeros(20))).astype(np.int32)
    tokens = tokenize(sp.csr_matrix(counts), ids, max_genes=300)
    spread = model.weights | {"embed.gene": 30 * model.weights["embed.gene"]}
    model = CellFM(model.config, model.vocab, spread)
    options = {"n_epochs": 10, "learning_rate": 1e-2, "batch_size": 16}
    tuned, weights, history = train(model, tokens, kind, method="frozen", head=None, **options)
    assert tuned is model
    assert history["validation_loss"].min() < 0.7 * history["validation_loss"].iloc[0]
    of_queries, of_cls, cell = TokenScorer(model, weights)(tokens)
    assert (of_queries.argmax(1) == kind).mean() > 0.9
    np.testing.assert_allclose(cell, model.encode(tokens).cell, **SAME)
    few = TokenScorer(model, weights, batch_size=3)
    again = few(tokens)
    assert few.encoder.n_chunks == 3 * few.encoder.chunks_of_a_cell
    np.testing.assert_allclose(again[0], of_queries, **SAME)
    np.testing.assert_allclose(again[1], of_cls, **SAME)
