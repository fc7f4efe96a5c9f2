"""The terms of integration: what each asks, what it leaves alone, and how batches come to be told apart no more."""

import jax
import numpy as np
import pytest
from cell_pairs import cosine, naive_discrepancy, naive_pairs

from cellfm.config import ModelConfig, TrainConfig
from cellfm.corpus._cell_table import CellTable
from cellfm.engines import Objective
from cellfm.engines.jax.operations import JaxOperations
from cellfm.model import CellFM
from cellfm.nn.heads import mlp_head, mlp_head_weights
from cellfm.nn.integration import (
    IntegrationWeights,
    discrepancy_loss,
    elastic_loss,
    integration,
    structure_loss,
)
from cellfm.nn.network import embed_cells
from cellfm.nn.objectives import log_probability
from cellfm.nn.weights import nest
from cellfm.train._feed import Feed
from cellfm.train._integrate_criterion import separability
from cellfm.train._integrate_feed import IntegrationFeed

XP = JaxOperations()
CONFIG = TrainConfig(steps=4, batch_size=8, n_chunks=48, dropout=0.0, train_genes=120, target_fraction=0.5)


@pytest.fixture(scope="module")
def model(tiny_vocab):
    return CellFM(ModelConfig(2, 16, 2, len(tiny_vocab), d_value=8, max_genes=120), tiny_vocab, random_state=2)


@pytest.fixture
def feed(model, tiny_adata, tiny_vocab):
    ids = np.concatenate((np.arange(1, 301), np.zeros(20))).astype(np.int32)
    codes = tiny_adata.obs["batch"].cat.codes.to_numpy().astype(np.int32)
    codes[:5] = 1  # 15 cells of the one batch and 25 of the other
    cells = CellTable.from_counts(tiny_adata.X, ids, tiny_vocab, np.arange(40) % 4 == 0)
    start = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
    return IntegrationFeed(
        Feed(cells, model.config, CONFIG, labels=np.arange(40)), codes, start, n_masked=12, grl_ramp=2
    )


def test_terms_are_means_over_pairs_of_cells():
    generator = np.random.default_rng(1)
    cell, start = generator.standard_normal((2, 7, 5)).astype(np.float32)
    codes = np.array([0, 1, 0, 1, 1, -2, -2], np.int32)
    found = float(structure_loss(XP, cell, start, codes))
    change = naive_pairs(lambda i, j: (cosine(cell, i, j) - cosine(start, i, j)) ** 2, codes, own_batch=True)
    assert found == pytest.approx(change, rel=1e-4)
    found = float(elastic_loss(XP, cell, codes))
    elastic = naive_pairs(lambda i, j: 1 - (max(cosine(cell, i, j), 0) - 0.8) ** 2, codes, own_batch=False)
    assert found == pytest.approx(elastic, rel=1e-4)


def test_the_elastic_term_draws_the_like_together_and_the_unlike_apart():
    codes = np.zeros(2, np.int32)

    def loss(angle: float) -> float:
        return float(elastic_loss(XP, np.array([[1, 0], [np.cos(angle), np.sin(angle)]], np.float32), codes))

    like, unlike = np.arccos(0.9), np.arccos(0.5)
    assert loss(like - 0.1) < loss(like) < loss(like + 0.1)
    assert loss(unlike + 0.1) < loss(unlike) < loss(unlike - 0.1)


def test_the_discrepancy_is_that_of_each_batch_from_all_cells():
    generator = np.random.default_rng(1)
    cell, codes = (
        generator.standard_normal((9, 5)).astype(np.float32),
        np.array([0, 1, 0, 2, 1, 0, 1, -2, -2], np.int32),
    )
    expected = naive_discrepancy(cell, codes[:7], 3)
    found = float(discrepancy_loss(XP, cell, codes, 3))
    assert found == pytest.approx(expected, rel=1e-4)
    twice = np.concatenate((cell[:4], cell[:4]))
    alike = float(discrepancy_loss(XP, twice, np.repeat(np.array([0, 1], np.int32), 4), 2))
    assert alike == pytest.approx(0, abs=1e-6)


def test_every_batch_counts_the_same_and_no_cell_loses_its_start(feed):
    batches = [feed.batch(step) for step in range(feed.steps_per_epoch)]
    weight = np.zeros(2)
    for micro in (micro for batch in batches for micro in batch.micro):
        there = micro.label >= 0
        assert (micro.weight[~there] == 0).all()
        np.testing.assert_allclose(micro.weight[there], 40 / (2 * np.bincount(feed.codes)[micro.label[there]] * 8))
        for code, start in zip(micro.label[there], micro.start[there], strict=True):
            cell = np.flatnonzero((feed.start == start).all(1))
            assert feed.codes[cell] == [code]
    assert weight.sum() == 0
    assert [float(feed.batch(step).micro[0].grl_ramp) for step in range(3)] == [0.5, 1.0, 1.0]
    assert all(float(micro.grl_ramp) == 1 for batch in feed.validation() for micro in batch.micro)


def test_masked_values_are_asked_of_the_first_chunks_alone(feed):
    batch = feed.batch(0)
    asked = sum(micro.target[:12].sum() for micro in batch.micro)
    assert all(float(micro.inv_targets) == pytest.approx(1 / asked) for micro in batch.micro)


@pytest.mark.parametrize("adversary", [0.0, 0.5])
def test_the_network_gets_what_the_discriminator_gets_turned_round_and_gated(model, feed, adversary):
    micro = tuple(feed.batch(3).micro[0])
    gene_ids, values, _, mask, chunk_cell, cls_row = micro[:6]
    label, weight = micro[8], micro[12]
    output = np.random.default_rng(2).standard_normal((2, 16)).astype(np.float32)
    head = mlp_head_weights(16, 2, n_layers=2) | {"output.linear.weight": output}
    weights = IntegrationWeights(
        adversary, structure=0.0, masked=0.0 if adversary else 1.0, elastic=0.0, discrepancy=0.0
    )
    loss = integration(model.config, CONFIG, weights, n_batches=2, n_masked=12, mean_square=1.0)
    fixed = {"mean": np.zeros(16, np.float32), "inv_scale": np.ones(16, np.float32)}
    whole = nest(model.weights | Objective(loss, head=head, fixed=fixed).weights)

    def gradients(of) -> tuple[np.ndarray, np.ndarray]:
        found = jax.jit(jax.grad(of))(whole)
        of_network = found["backbone"][1]["attention"]["output"]["weight"]
        return np.asarray(of_network), np.asarray(found["head"]["output"]["linear"]["weight"])

    of_network, of_head = gradients(lambda p: loss(XP, p, micro, None)[0])
    if not adversary:
        assert not of_head.any()
        assert of_network.any()
        return

    def log_p(p):
        cell = embed_cells(XP, model.config, p, values, (gene_ids, mask, chunk_cell, cls_row))
        return log_probability(XP, mlp_head(XP, p["head"], cell, fixed["mean"], fixed["inv_scale"]), label)

    # The discriminator lowers -log p; the network, on its own, lowers -log(1 - p).
    with_head = gradients(lambda p: -(log_p(p) * weight).sum())[1]
    with_network = gradients(lambda p: -(jax.numpy.log(1 - jax.numpy.exp(log_p(p))) * weight).sum())[0]
    np.testing.assert_allclose(of_head, with_head, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(of_network, adversary * with_network, rtol=1e-3, atol=1e-6)


def test_separability_is_1_apart_and_near_0_mixed():
    generator = np.random.default_rng(0)
    cells, codes = generator.standard_normal((200, 8)), np.arange(200) % 2
    assert separability(cells, codes) < 0.1
    assert separability(cells + 20 * codes[:, None] * np.eye(8)[0] - 10 * np.eye(8)[0], codes) > 0.95
    assert separability(cells[:3], np.array([0, 1, 1])) >= 0
    assert separability(cells[:4], np.zeros(4, int)) == 0
