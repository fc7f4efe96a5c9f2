"""Training on synthetic perturbations with known effects: epistasis is learnt, and additive data are left additive."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp

import cellfm.nn.perturbation as network
from cellfm.engines.jax.operations import JaxOperations
from cellfm.tasks._expression import correlation
from cellfm.tasks.perturbation._baselines import additive
from cellfm.tasks.perturbation._conditions import CONTROL, Conditions
from cellfm.tasks.perturbation._graphs import coexpression_graph, term_graph
from cellfm.tasks.perturbation._profiles import mean_profiles
from cellfm.tasks.perturbation._recipe import Recipe
from cellfm.tasks.perturbation._split import Split
from cellfm.tasks.perturbation._train import NetworkInput, Pairs, code_conditions, train_network, trained_network

N_MEASURED, N_CELLS = 20, 10
GENES = [f"P{i}" for i in range(10)]
KIND = np.arange(10) % 2
SINGLES = [(gene,) for gene in GENES]
PAIRS = [tuple(sorted(pair)) for pair in itertools.combinations(GENES, 2)]
PLACES = {gene: i for i, gene in enumerate(GENES)}


def synthetic(epistasis: float, noise: float | np.ndarray = 0.1):
    """Cells whose pairs are additive, but for a shift that pairs of one kind of gene have beside."""
    generator = np.random.default_rng(0)
    effect = dict(zip(GENES, generator.standard_normal((10, N_MEASURED)) * 0.3, strict=True))
    shift = generator.standard_normal(N_MEASURED) * epistasis
    base = 3 + generator.random(N_MEASURED)

    def mean(condition):
        same = len(condition) == 2 and KIND[PLACES[condition[0]]] == KIND[PLACES[condition[1]]]
        return base + sum((effect[gene] for gene in condition), np.zeros(N_MEASURED)) + same * shift

    conditions = (CONTROL, *sorted([*SINGLES, *PAIRS]))
    blocks = [mean(c) + noise * generator.standard_normal((N_CELLS, N_MEASURED)) for c in conditions]
    values = sp.csr_matrix(np.concatenate(blocks).astype(np.float32))
    return values, Conditions(conditions, np.repeat(np.arange(len(conditions)), N_CELLS)), mean


def split_of() -> Split:
    order = np.random.default_rng(1).permutation(len(PAIRS))
    parts = [tuple(PAIRS[i] for i in some) for some in (order[:28], order[28:34], order[34:])]
    return Split((*SINGLES, *parts[0]), parts[1], parts[2])


def given(values: sp.csr_matrix) -> NetworkInput:
    vectors = np.eye(2)[KIND] * 2 + np.random.default_rng(2).standard_normal((10, 2)) * 0.1
    genes = np.random.default_rng(3).standard_normal((N_MEASURED, 8)).astype(np.float32)
    relations = term_graph({}, GENES)
    return NetworkInput(coexpression_graph(values), relations, genes, vectors.astype(np.float32))


def fit(epistasis: float, recipe: Recipe):
    values, conditions, mean = synthetic(epistasis)
    profiles, split = mean_profiles(values, conditions), split_of()
    own = given(values)
    weights, history, _ = train_network(own, values, conditions, profiles, split, PLACES, recipe)
    departure = trained_network(own, weights)(*code_conditions(split.test, PLACES))[0]
    start = additive(split.test, split.train, profiles.changes(split.train))
    truth = np.array([mean(condition) - mean(CONTROL) for condition in split.test])
    return start, start + departure, truth, history


@pytest.mark.slow
def test_epistasis_is_recovered_where_the_additive_model_has_none():
    start, found, truth, history = fit(0.5, Recipe(width=16, n_epochs=24, patience=24, bag=2, learning_rate=1e-2))
    assert history["loss"].iloc[-1] < history["loss"].iloc[1] / 2
    errors = [((x - truth) ** 2).mean() for x in (start, found)]
    assert errors[1] < errors[0] / 4
    left = truth - start
    strong = [row for row in range(len(left)) if np.abs(left[row]).mean() > 0.2]
    assert strong
    assert min(correlation((found - start)[row], left[row]) for row in strong) > 0.8


def test_additive_data_stay_additive():
    start, found, truth, history = fit(0.0, Recipe(width=16, n_epochs=12, bag=2, learning_rate=1e-2))
    assert history["epoch"].iloc[-1] > 1
    errors = [((x - truth) ** 2).mean() for x in (start, found)]
    noise = 6 * 0.1**2 / N_CELLS  # of the means of two singles, and of control, which is taken off twice
    assert errors[0] == pytest.approx(noise, rel=0.5)
    assert errors[1] < 1.5 * errors[0]
    assert (truth**2).mean() > 30 * errors[0]


def test_the_uncertainty_head_tells_noisy_genes_from_quiet_ones():
    noise = np.where(np.arange(N_MEASURED) % 2, 0.4, 0.1)
    values, conditions, _ = synthetic(0.0, noise)
    profiles, split, own = mean_profiles(values, conditions), split_of(), given(values)
    recipe = Recipe(width=16, n_epochs=3, bag=2, uncertainty=True)
    weights, _, _ = train_network(own, values, conditions, profiles, split, PLACES, recipe)
    found = trained_network(own, weights)(*code_conditions(split.test, PLACES))[1]
    # A difference of means over two cells has the variance of one cell.
    assert found[:, ::2].mean() == pytest.approx(0.1**2, rel=0.5)
    assert found[:, 1::2].mean() == pytest.approx(0.4**2, rel=0.5)
    assert found[:, 1::2].min() > 3 * found[:, ::2].max()


def test_pairs_follow_from_the_seed_and_the_step_and_are_what_they_say():
    values, conditions, _ = synthetic(0.0)
    train = split_of().train
    start = np.zeros((len(train), N_MEASURED), np.float32)
    pairs = Pairs(values, conditions, train, start, PLACES, Recipe(batch_size=5, bag=4000))
    for one, other in zip(pairs.batch(3), pairs.batch(3), strict=True):
        np.testing.assert_array_equal(one, other)
    codes, present, target, offset = pairs.batch(3)
    assert len(codes) == 5
    assert not np.array_equal(codes, pairs.batch(4)[0])
    profiles = mean_profiles(values, conditions)
    for i in range(5):  # means over many draws are those over the cells
        condition = tuple(GENES[j] for j, there in zip(codes[i], present[i], strict=True) if there)
        np.testing.assert_allclose(target[i], profiles.changes((condition,))[0], atol=0.02)
        np.testing.assert_allclose(offset[i], 0, atol=0.02)
    shifted = Pairs(values, conditions, train, start + 2, PLACES, Recipe(batch_size=5, bag=4000)).batch(3)
    np.testing.assert_allclose(shifted[2], target - 2, atol=1e-5)
    np.testing.assert_allclose(shifted[2] + shifted[3], target + offset, atol=1e-5)


@pytest.mark.parametrize("sign", [True, False])
def test_the_loss_is_the_naive_one(monkeypatch, sign):
    generator = np.random.default_rng(0)
    change, target, start = generator.standard_normal((3, 4, 6)).astype(np.float32)
    given = (change, np.full_like(change, 0.5), ())
    monkeypatch.setattr(network, "perturbed_changes", lambda *_, **__: given)
    loss = network.perturbation(power=4.0, direction=0.3, sign=sign, uncertainty=True, uncertainty_weight=0.7)
    nothing = np.zeros((4, 2), np.int32)
    total, terms, statistics = loss(JaxOperations(), {}, (nothing, nothing, target, start), None)
    step = np.sign if sign else (lambda x: np.tanh(10 * x))
    error = np.mean([(c - t) ** 4 for c, t in zip(change.flat, target.flat, strict=True)])
    pairs = zip(change.flat, target.flat, start.flat, strict=True)
    direction = np.mean([(step(t + s) - step(c + s)) ** 2 for c, t, s in pairs])
    variance = np.mean((change - target) ** 2 * np.exp(-0.5) + 0.5)
    np.testing.assert_allclose(terms, [error, direction], rtol=1e-4)
    assert float(total) == pytest.approx(error + 0.3 * direction + 0.7 * variance, rel=1e-4)
    assert statistics == ()
