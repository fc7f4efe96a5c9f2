"""Convex potentials are convex, and find the map between Gaussians; entropic maps are those of ott-jax."""

from dataclasses import replace

import numpy as np
import pytest

from cellfm.engines import apply
from cellfm.errors import InputError
from cellfm.tasks.transport._cellot import fit_potentials
from cellfm.tasks.transport._convex import carry, convex, draw_potential, potential
from cellfm.tasks.transport._entropic import entropic_map, fit_entropic
from cellfm.tasks.transport._recipe import Recipe

RECIPE = Recipe(n_steps=400, validate_every=25, widths=(16, 16), batch_size=128, learning_rate=2e-3)
GENERATOR = np.random.default_rng(0)
MEAN = np.array([1.0, -2.0], np.float32)
ROOT = np.array([[1.2, 0.4], [0.4, 0.6]], np.float32)  # square root of the target's covariance
SOURCE = GENERATOR.standard_normal((1500, 2)).astype(np.float32)
TARGET = MEAN + GENERATOR.standard_normal((1500, 2)).astype(np.float32) @ ROOT
NEW = GENERATOR.standard_normal((300, 2)).astype(np.float32)
# The optimal map between N(0, I) and N(m, S) is x -> m + S^(1/2) x (Peyre and Cuturi 2019, remark 2.31).
TRUTH = MEAN + NEW @ ROOT


def error(moved: np.ndarray) -> float:
    return float(((moved - TRUTH) ** 2).sum(1).mean() / TRUTH.var(0).sum())


@pytest.fixture(scope="module")
def fitted():
    # Scored by the first two moments, as one would without knowing the map.
    def score(moved: np.ndarray) -> float:
        return float(np.abs(moved.mean(0) - MEAN).sum() + np.abs(np.cov(moved.T) - ROOT @ ROOT).sum())

    return fit_potentials(SOURCE, TARGET, score, NEW, RECIPE)


def drawn(seed: int = 0, scale: float = 1.0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    weights = draw_potential(np.array([1.0, 2.0, 3.0], np.float32), (8, 8, 8), generator)
    return {name: array + scale * generator.standard_normal(array.shape) for name, array in weights.items()}


def is_convex(weights: dict[str, np.ndarray], n: int) -> bool:
    generator = np.random.default_rng(1)
    x, y = (5 * generator.standard_normal((2000, n)).astype(np.float32) for _ in range(2))
    share = generator.random((2000, 1)).astype(np.float32)
    between, *ends = (apply(potential, weights, cells) for cells in (share * x + (1 - share) * y, x, y))
    bound = share[:, 0] * ends[0] + (1 - share[:, 0]) * ends[1]
    return bool((between <= bound + 1e-4 * np.abs(bound) + 1e-4).all())


@pytest.mark.parametrize("seed", range(3))
def test_potentials_are_convex_whatever_the_weights(seed: int):
    assert is_convex(apply(convex, drawn(seed)), 3)
    assert not is_convex(drawn(seed), 3)  # the weights are what makes them so


def test_potentials_stay_convex_in_training(fitted):
    weights = fitted[0]
    assert is_convex(weights, 2)
    assert all((weights[name] >= 0).all() for name in weights if name.startswith("inner."))


def test_maps_are_monotone(fitted):
    x, y = NEW[:150], NEW[150:]
    moved = carry(fitted[0], NEW)
    assert (((moved[:150] - moved[150:]) * (x - y)).sum(1) >= -1e-5).all()


def test_a_potential_starts_at_the_shift():
    shift = np.array([1.0, -2.0, 0.5], np.float32)
    weights = draw_potential(shift, (64, 64), np.random.default_rng(0))
    x = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    assert np.abs(carry(weights, x) - x - shift).mean() < 0.3


def test_the_gradient_is_that_of_the_potential():
    weights = apply(convex, drawn(scale=0.2))
    x = np.random.default_rng(0).standard_normal((5, 3))
    step = 1e-2 * np.eye(3)
    slopes = [(apply(potential, weights, x + s) - apply(potential, weights, x - s)) / 2e-2 for s in step]
    np.testing.assert_allclose(carry(weights, x), np.transpose(slopes), rtol=0.02, atol=0.02)


def test_the_map_between_gaussians_is_found(fitted):
    weights, history = fitted
    assert error(carry(weights, NEW)) < 0.03
    assert error(NEW + MEAN) > 0.1  # which the shift alone does not reach
    assert history["validation"].min() < 0.5 * history["validation"].iloc[0]


def test_the_same_seed_gives_the_same_map():
    scores = iter(range(0, -1000, -1))  # each better than the one before, so that the last is kept
    one = fit_potentials(SOURCE, TARGET, lambda moved: next(scores), NEW, replace(RECIPE, n_steps=50))[0]
    two = fit_potentials(SOURCE, TARGET, lambda moved: next(scores), NEW, replace(RECIPE, n_steps=50))[0]
    other = replace(RECIPE, n_steps=50, random_state=1)
    three = fit_potentials(SOURCE, TARGET, lambda moved: next(scores), NEW, other)[0]
    assert all((one[name] == two[name]).all() for name in one)
    assert not (one["input.0"] == three["input.0"]).all()


def test_the_best_validation_is_kept_and_ends_training():
    recipe = Recipe(n_steps=10_000, validate_every=25, widths=(16, 16), batch_size=128, patience=2)
    scores = iter([3.0, 2.0, 1.0, 5.0, 5.0, 0.0])
    moved = []

    def score(cells: np.ndarray) -> float:
        moved.append(cells)
        return next(scores)

    weights, history = fit_potentials(SOURCE, TARGET, score, NEW, recipe)
    assert history["validation"].tolist() == [3.0, 2.0, 1.0, 5.0, 5.0]
    np.testing.assert_allclose(carry(weights, NEW), moved[2], rtol=1e-6, atol=1e-6)


def test_the_entropic_map_is_a_weighted_mean():
    generator = np.random.default_rng(0)
    z, target, own = generator.standard_normal((4, 2)), generator.standard_normal((6, 2)), generator.standard_normal(6)
    for cell, moved in zip(z, entropic_map(z, target, own, 0.7), strict=True):
        weight = np.array([np.exp((g - ((cell - y) ** 2).sum()) / 0.7) for g, y in zip(own, target, strict=True)])
        np.testing.assert_allclose(moved, weight @ target / weight.sum(), rtol=1e-5)


def test_entropic_maps_find_the_map_between_gaussians_and_are_those_of_ott(monkeypatch):
    monkeypatch.setattr("cellfm.tasks.transport._entropic.EPSILONS", (0.01, 0.3))
    pytest.importorskip("ott", exc_type=ImportError)
    from ott.geometry.pointcloud import PointCloud
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

    arrays, history = fit_entropic(SOURCE[:400], TARGET[:400], error, NEW)
    moved = entropic_map(NEW, arrays["target"], arrays["potential"], float(arrays["epsilon"][0]))
    assert error(moved) < 0.1
    assert history["validation"].min() == pytest.approx(error(moved))
    assert history["validation"].idxmin() == 0
    cloud = PointCloud(SOURCE[:400], TARGET[:400], epsilon=float(arrays["epsilon"][0]))
    of_ott = Sinkhorn(max_iterations=5000)(LinearProblem(cloud)).to_dual_potentials().transport(NEW)
    np.testing.assert_allclose(moved, np.asarray(of_ott), atol=1e-3)


def test_without_ott_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ott", None)
    with pytest.raises(InputError, match=r"cellfm\[perturb\]"):
        fit_entropic(SOURCE[:30], TARGET[:30], error, NEW)
