"""The network of perturbations: symmetry, gradients, a hop on a graph, and normalisation that in use is of no batch."""

import numpy as np
import pytest
from numpy_operations import NumpyOperations
from on_engine import differences, differentiate, run

from cellfm.nn.perturbation import (
    MOMENTUM,
    SHARPNESS,
    batch_norm,
    neighbours,
    perturbation,
    perturbation_weights,
    perturbed_changes,
    statistics_names,
)
from cellfm.nn.weights import nest

N_GENES, N_PERTURBABLE, K = 11, 7, 3
PERTURBED = np.array([[0, 3], [3, 0], [2, 0], [5, 6]], np.int32)
PRESENT = np.array([[1, 1], [1, 1], [1, 0], [1, 1]], np.float32)


def graph(n: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(n)
    weights = generator.random((n, K)).astype(np.float32)
    return generator.integers(n, size=(n, K)).astype(np.int32), weights / weights.sum(1, keepdims=True)


def weights_of(given: bool = True, *, uncertainty: bool = True) -> dict[str, np.ndarray]:
    """Weights of a network that has learnt something, and what it reads."""
    generator = np.random.default_rng(0)
    widths = {"d_genes": 5, "d_perturbations": 4} if given else {"d_genes": None, "d_perturbations": None}
    start = perturbation_weights(N_GENES, N_PERTURBABLE, width=8, uncertainty=uncertainty, random_state=1, **widths)
    weights = {
        name: array if name.endswith(("mean", "variance")) else array + 0.3 * generator.standard_normal(array.shape)
        for name, array in start.items()
    }
    for name, n in (("coexpression", N_GENES), ("relations", N_PERTURBABLE)):
        weights[f"fixed.{name}.neighbours"], weights[f"fixed.{name}.weights"] = graph(n)
    if given:
        weights["fixed.genes"] = generator.standard_normal((N_GENES, 5))
        weights["fixed.perturbations"] = generator.standard_normal((N_PERTURBABLE, 4))
    return {name: a if a.dtype == np.int32 else a.astype(np.float32) for name, a in weights.items()}


def in_use(xp, p, perturbed, present):
    return perturbed_changes(xp, p, perturbed, present, training=False)[:2]


def in_training(xp, p, perturbed, present):
    return perturbed_changes(xp, p, perturbed, present, training=True)


@pytest.mark.parametrize("given", [True, False])
def test_the_order_of_genes_and_the_others_of_the_batch_do_not_matter(engine, given):
    weights = weights_of(given)
    change, log_variance = run(engine, in_use, weights, PERTURBED, PRESENT)
    assert change.shape == log_variance.shape == (4, N_GENES)
    assert np.abs(change).max() > 0.01
    np.testing.assert_allclose(change[0], change[1], atol=1e-5)
    beside = PERTURBED.copy()
    beside[2, 1] = 6  # nothing, for there is one gene only
    np.testing.assert_allclose(run(engine, in_use, weights, beside, PRESENT)[0][2], change[2], atol=1e-5)
    alone = run(engine, in_use, weights, PERTURBED[2:3], PRESENT[2:3])[0]
    np.testing.assert_allclose(alone[0], change[2], atol=1e-5)


def test_only_an_uncertainty_head_gives_variances_and_training_starts_without_change(engine):
    weights = weights_of(uncertainty=False)
    assert not run(engine, in_use, weights, PERTURBED, PRESENT)[1].any()
    start = perturbation_weights(
        N_GENES, N_PERTURBABLE, width=8, uncertainty=False, random_state=1, d_genes=5, d_perturbations=4
    )
    fixed = {name: array for name, array in weights.items() if name.startswith("fixed.")}
    assert not run(engine, in_use, start | fixed, PERTURBED, PRESENT)[0].any()


def test_batch_norm_standardises_in_training_and_follows_the_batches(engine):
    x = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32) * 4 + 2
    weights = {"gamma": np.ones(3), "beta": np.zeros(3), "mean": np.zeros(3), "variance": np.ones(3)}
    weights = {name: array.astype(np.float32) for name, array in weights.items()}

    def train(xp, p, x):
        return batch_norm(xp, p, x, training=True)

    def use(xp, p, x):
        return batch_norm(xp, p, x, training=False)[0]

    out, (mean, variance) = run(engine, train, weights, x)
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(0), 1, atol=1e-4)
    np.testing.assert_allclose(mean, MOMENTUM * x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(variance, 1 - MOMENTUM + MOMENTUM * x.var(0), rtol=1e-4)
    seen = weights | {"mean": x.mean(0), "variance": x.var(0)}
    np.testing.assert_allclose(run(engine, use, seen, x), out, atol=1e-4)


def test_a_hop_is_the_weighted_mean_over_neighbours(engine):
    near, weights = graph(6)
    x = np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32)
    identity = {"linear.linear.weight": np.eye(6, dtype=np.float32), "linear.bias": np.full(6, 0.5, np.float32)}

    def hop(xp, p, near, weights, x, chosen):
        return neighbours(xp, p, {"neighbours": near, "weights": weights}, x, chosen)

    found = run(engine, hop, identity, near, weights, x, np.array([4, 1], np.int32))
    naive = [sum(w * x[j] for w, j in zip(weights[i], near[i], strict=True)) + 0.5 for i in (4, 1)]
    np.testing.assert_allclose(found, naive, rtol=1e-5)


@pytest.mark.parametrize("sign", [False, True])
def test_the_loss_is_its_formula_and_its_gradient_that_of_finite_differences(engine, sign):
    weights = weights_of()
    generator = np.random.default_rng(5)
    target, start = generator.standard_normal((2, 4, N_GENES)).astype(np.float32)
    arrays = (PERTURBED, PRESENT, target, start)
    options = {"power": 3.0, "direction": 0.2, "sign": sign, "uncertainty": True, "uncertainty_weight": 0.5}
    loss = perturbation(**options)
    statistics = statistics_names()
    trained = [name for name in weights if not name.startswith("fixed.") and name not in statistics]

    result, gradients = differentiate(engine, without_statistics(loss), weights, arrays, trained)
    exact = {name: a if a.dtype == np.int32 else a.astype(float) for name, a in weights.items()}
    xp = NumpyOperations()
    change, log_variance, found = in_training(xp, nest(exact), PERTURBED, PRESENT)
    assert len(found) == len(statistics), "a statistic for each name"
    error = np.abs(change - target)
    step = np.sign if sign else (lambda x: np.tanh(SHARPNESS * x))
    direction = ((step(target + start) - step(change + start)) ** 2).mean()
    expected = (error**3).mean() + 0.2 * direction
    expected += 0.5 * (error**2 * np.exp(-log_variance) + log_variance).mean()
    assert result.loss == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(result.terms, [(error**3).mean(), direction], rtol=1e-4)
    # The variance learns from the error, and not the error from the variance: of the read-out without it.
    plain = perturbation(**options | {"uncertainty": False})
    names = ["read_bias", "own", "cross.bias"]

    def without_variance(moved):
        return float(plain(xp, nest(exact | moved), arrays, None)[0])

    if not sign:
        for name, expected in differences(without_variance, {name: exact[name] for name in names}).items():
            scale = np.abs(expected).max()
            np.testing.assert_allclose(gradients[name] / scale, expected / scale, atol=1e-3, rtol=0, err_msg=name)
    # What is the same for all rows in front of a batch normalisation has none.
    silent = {name for name, g in gradients.items() if np.abs(g).max() < 1e-6}
    assert all(name.endswith(("bias", "beta")) for name in silent), silent


def without_statistics(loss):
    def of_arrays(xp, p, arrays, keys):
        found = loss(xp, p, arrays, keys)
        return found[0], found[1]

    return of_arrays
