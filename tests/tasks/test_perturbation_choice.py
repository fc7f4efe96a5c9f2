"""Which epoch is kept, the earliest that is not clearly worse than the best; and what predicts in the end."""

import itertools

import numpy as np
import pytest

from cellfm.tasks.perturbation._baselines import BASELINES, BILINEAR_CELLFM, GENE_EFFECTS, gene_effects
from cellfm.tasks.perturbation._choice import choose_epoch, choose_method, validation_errors
from cellfm.tasks.perturbation._fit import _choose
from cellfm.tasks.perturbation._profiles import Profiles
from cellfm.tasks.perturbation._split import Split


def naive(errors: np.ndarray) -> int:
    means = [sum(row) / len(row) for row in errors]
    least = means.index(min(means))
    for epoch in range(least):
        above = [a - b for a, b in zip(errors[epoch], errors[least], strict=True)]
        mean = sum(above) / len(above)
        error = np.sqrt(sum((x - mean) ** 2 for x in above) / (len(above) - 1) / len(above))
        if mean <= error:
            return epoch
    return least


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_naive_rule(seed):
    generator = np.random.default_rng(seed)
    errors = generator.random((8, 4)) - np.arange(8)[:, None] * generator.random() * 0.2
    assert choose_epoch(errors) == naive(errors)


def test_a_gain_on_every_condition_is_taken_and_one_on_a_single_condition_is_not():
    start = np.array([1.0, 1.2, 0.8, 1.1])
    assert choose_epoch(np.array([start, start - 0.5, start - 0.52])) == 2
    one_better = start - np.array([2.0, 0, 0, 0])
    assert choose_epoch(np.array([start, one_better])) == 0
    assert choose_epoch(np.array([start, start + 0.1, start + 0.2])) == 0


def test_errors_are_of_conditions_and_of_genes_where_there_is_one_condition():
    generator = np.random.default_rng(0)
    predicted, observed = generator.random((2, 3, 30))
    top = [generator.permutation(30)[:20] for _ in range(3)]
    expected = [np.mean((predicted[i][top[i]] - observed[i][top[i]]) ** 2) for i in range(3)]
    np.testing.assert_allclose(validation_errors(predicted, observed, top), expected)
    one = validation_errors(predicted[:1], observed[:1], top[:1])
    np.testing.assert_allclose(one, (predicted[0] - observed[0])[top[0]] ** 2)


@pytest.mark.parametrize("seed", range(5))
def test_one_condition_shows_a_gain_on_most_genes_and_none_on_a_few(seed):
    start = 1 + np.random.default_rng(seed).random(20)
    falling = np.array([start * (1 - 0.12 * epoch) for epoch in range(7)])  # as if all genes came nearer
    assert choose_epoch(falling) == 6
    one_gene = np.tile(start, (2, 1))
    one_gene[1, 3] = 0
    assert choose_epoch(one_gene) == 0


def test_the_effects_of_genes_predict_unless_another_is_clearly_better():
    start = np.array([1.0, 1.2, 0.8, 1.1])
    errors = {
        "network": start - 0.2,
        GENE_EFFECTS: start,
        "bilinear": start - [0.3, 0.31, 0.3, 0.29],
        "no change": start * 0,
    }
    chosen, table = choose_method(errors)
    assert chosen == "bilinear"
    assert table["predictor"].tolist() == list(errors)
    assert table["chosen"].tolist() == [False, False, True, False]
    np.testing.assert_allclose(table["difference"][:3], [-0.2, 0, -0.3])
    worse = start - [2.0, 0, 0, 0], start - [0.4, 0.4, 0.1, 0], start, start + 1
    for errors_of_network in worse:
        assert choose_method({"network": errors_of_network, GENE_EFFECTS: start})[0] == GENE_EFFECTS


def test_two_conditions_that_happen_to_agree_are_no_proof():
    start = np.array([1.0, 1.2, 0.8, 1.1])
    gain = np.array([0.2, 0.1, 0.2, 0.1])
    for n, expected in ((2, GENE_EFFECTS), (4, "network")):
        assert choose_method({"network": (start - gain)[:n], GENE_EFFECTS: start[:n]})[0] == expected


def screen(kind: str):
    """Profiles of genes alone and in pairs that are additive, or of single genes, linear in the vector of the gene."""
    generator = np.random.default_rng(0)
    genes = [f"G{i:02}" for i in range(20)]
    drawn = generator.standard_normal((20, 3))
    drawn[:16] -= drawn[:16].mean(0)  # the fit has no offset of the vectors
    vectors = dict(zip(genes, drawn, strict=True))
    effects = drawn @ generator.standard_normal((3, 40)) if kind == "linear" else generator.standard_normal((20, 40))
    single = dict(zip(genes, effects, strict=True))
    pairs = [] if kind == "linear" else list(itertools.combinations(genes[:6], 2))
    conditions = ((), *((gene,) for gene in genes), *pairs)
    change = np.array([sum((single[gene] for gene in condition), np.zeros(40)) for condition in conditions])
    mean = (3 + change + 0.05 * generator.standard_normal(change.shape)).astype(np.float32)
    profiles = Profiles(conditions, mean, np.full_like(mean, 0.1), np.full(len(conditions), 50))
    held = tuple(pairs[::4]) or tuple((gene,) for gene in genes[16:])
    return profiles, Split(tuple(c for c in conditions[1:] if c not in held), held, ()), vectors


@pytest.mark.parametrize(("kind", "expected"), [("linear", BILINEAR_CELLFM), ("additive", GENE_EFFECTS)])
def test_what_is_right_for_a_screen_is_chosen_where_the_network_adds_nothing(kind, expected):
    profiles, split, vectors = screen(kind)
    changes = gene_effects(split.validation, split.train, profiles.changes(split.train))
    by_network = profiles.control + changes
    chosen, table = _choose(by_network, profiles, split, {"measured": {}, "cellfm": vectors})
    assert chosen == expected
    assert table["predictor"].tolist() == ["network", *BASELINES]
