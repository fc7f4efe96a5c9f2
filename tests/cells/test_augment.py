"""Thinned cells keep their genes, panels their share, and genes shown as unexpressed are."""

import numpy as np
import pytest

from cellfm.cells.augment import choose_panel, sample_unexpressed, thin


def test_thinning_keeps_every_expressed_gene_and_adds_nothing():
    counts = np.array([0, 1, 2, 5, 50, 1000], np.float32)
    generator = np.random.default_rng(0)
    for _ in range(200):
        thinned = thin(counts, generator)
        assert thinned.dtype == np.float32
        assert (thinned <= counts).all()
        assert ((thinned > 0) == (counts > 0)).all()


def test_one_rate_a_cell_drawn_from_beta():
    counts = np.full(50, 10_000, np.float32)
    generator = np.random.default_rng(1)
    rates = np.array([thin(counts, generator) for _ in range(3000)]) / 10_000
    assert rates.std(1).max() < 0.02, "all genes of a cell are thinned alike"
    cells = rates.mean(1)
    # Beta(2, 2): mean 1/2, variance 1/20.
    assert cells.mean() == pytest.approx(0.5, abs=5 * np.sqrt(0.05 / 3000))
    assert cells.var() == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("least", [0.0, 0.3, 1.0])
def test_panel_measures_a_share_between_the_least_and_all(least):
    generator = np.random.default_rng(2)
    shares = np.array([choose_panel(np.arange(5000), generator, least=least).mean() for _ in range(400)])
    noise = 5 * np.sqrt(0.25 / 5000)
    assert shares.min() >= least - noise
    assert shares.mean() == pytest.approx((1 + least) / 2, abs=0.08 * (1 - least) + 1e-9)
    assert shares.std() == pytest.approx((1 - least) / np.sqrt(12), rel=0.15, abs=1e-9)


def test_sampled_genes_are_unexpressed_and_of_the_vocabulary():
    generator = np.random.default_rng(3)
    for n_expressed in (0, 10, 250, 299, 300):
        expressed = generator.permutation(300)[:n_expressed] + 1
        sampled = sample_unexpressed(expressed, 300, 40, generator)
        assert sampled.dtype == np.int32
        assert len(np.unique(sampled)) == len(sampled) <= 40
        assert not np.isin(sampled, expressed).any()
        assert ((sampled >= 1) & (sampled <= 300)).all()


def test_as_many_as_asked_for_where_there_is_room():
    generator = np.random.default_rng(4)
    assert len(sample_unexpressed(np.arange(1, 1001), 20_000, 1000, generator)) == 1000
    assert len(sample_unexpressed(np.array([1]), 20_000, 0, generator)) == 0


def test_every_unexpressed_gene_has_the_same_chance():
    generator = np.random.default_rng(5)
    drawn = np.concatenate([sample_unexpressed(np.arange(1, 11), 60, 5, generator) for _ in range(4000)])
    shares = np.bincount(drawn, minlength=61)[11:] / 4000
    np.testing.assert_allclose(shares, 0.1, atol=5 * np.sqrt(0.09 / 4000))
