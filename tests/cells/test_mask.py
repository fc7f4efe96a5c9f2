"""As many genes are asked for and hidden as the paper says, and every gene has the same chance."""

import numpy as np
import pytest

from cellfm.cells.mask import choose_targets


@pytest.mark.parametrize("n", [0, 1, 4, 5, 24, 200, 2048])
@pytest.mark.parametrize("fractions", [{}, {"target_fraction": 0.5, "hide_fraction": 0.3}, {"hide_fraction": 0.0}])
def test_numbers_are_those_of_the_definition(n, fractions):
    target, hidden = choose_targets(n, np.random.default_rng(n), **fractions)
    n_targets = int(fractions.get("target_fraction", 0.2) * n)
    assert (len(target), target.sum()) == (n, n_targets)
    assert (len(hidden), hidden.sum()) == (n, int(fractions.get("hide_fraction", 0.8) * n_targets))
    assert not (hidden & ~target).any(), "only targets are hidden"


def test_every_gene_has_the_same_chance():
    generator = np.random.default_rng(0)
    drawn = np.array([choose_targets(20, generator) for _ in range(4000)])  # (draw, target or hidden, gene)
    # Of 20 genes 4 are targets and 3 of these are hidden; five standard errors.
    for counted, share in zip(drawn.mean(0), (4 / 20, 3 / 20), strict=True):
        np.testing.assert_allclose(counted, share, atol=5 * np.sqrt(share * (1 - share) / 4000))


def test_seed_decides():
    for one, other in zip(*(choose_targets(100, np.random.default_rng(3)) for _ in range(2)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (choose_targets(100, np.random.default_rng(4))[0] != one).any()
