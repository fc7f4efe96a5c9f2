"""Conditions, graphs, splits, baselines and metrics of perturbations: laws, and naive loops beside the fast code."""

import itertools
import re
import time

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from cellfm.cells.mudata import without_pulling
from cellfm.errors import DataWarning, InputError, MissingKeyError
from cellfm.tasks._expression import correlation, top_changed
from cellfm.tasks.perturbation import _baselines as b
from cellfm.tasks.perturbation import _metrics as m
from cellfm.tasks.perturbation._conditions import CONTROL, read_conditions
from cellfm.tasks.perturbation._graphs import coexpression_graph, term_graph
from cellfm.tasks.perturbation._reverse import (
    all_conditions,
    chance_of_hits,
    dominant_genes,
    first_hits,
    order_of,
    scores_of,
)
from cellfm.tasks.perturbation._split import given_split, simulation_split, single_split, whole_split

GENES = [f"G{i}" for i in range(12)]
SINGLES = [(gene,) for gene in GENES]
DOUBLES = [tuple(sorted(pair)) for pair in itertools.combinations(GENES[:6], 2)]


def cells(labels: list) -> AnnData:
    obs = pd.DataFrame({"condition": labels}, index=[f"c{i}" for i in range(len(labels))])
    return AnnData(np.ones((len(labels), 3), np.float32), obs=obs)


def test_control_comes_first_and_every_cell_finds_its_condition():
    adata = cells(["B+A"] * 10 + ["ctrl"] * 10 + ["A+B"] * 5 + ["A+ctrl"] * 10)
    found = read_conditions(adata, adata, "condition", known="ABC")
    assert found.conditions == (CONTROL, ("A",), ("A", "B"))
    assert [found.conditions[code] for code in found.codes[[0, 10, 20, 25]]] == [("A", "B"), (), ("A", "B"), ("A",)]
    assert found.genes == ["A", "B"]


def test_what_is_wrong_with_conditions_is_said():
    adata = cells(["A"] * 10 + ["B"] * 10)
    with pytest.raises(InputError, match="No control cells.*A, B"):
        read_conditions(adata, adata, "condition", known="ABC")
    assert read_conditions(adata, adata, "condition", known="ABC", control="B").conditions == ((), ("A",))
    with pytest.raises(MissingKeyError, match="condition"):
        read_conditions(adata, adata, "perturbation", known="ABC")
    only = cells(["ctrl"] * 10)
    with pytest.raises(InputError, match="control cells only"):
        read_conditions(only, only, "condition", known="ABC")
    broken = cells(["ctrl"] * 10 + ["A+B+C"] * 10)
    with pytest.raises(InputError, match=r"A\+B\+C"):
        read_conditions(broken, broken, "condition", known="ABC")


def test_small_conditions_and_cells_without_label_are_warned_of():
    few = cells(["ctrl"] * 10 + ["A"] * 9)
    with pytest.warns(DataWarning, match=r"A \(9\)"):
        read_conditions(few, few, "condition", known="ABC")
    unnamed = cells(["ctrl"] * 10 + ["A"] * 10 + [None] * 2)
    with pytest.warns(DataWarning, match="2 of 22 cells"):
        assert (read_conditions(unnamed, unnamed, "condition", known="ABC").codes[-2:] == -1).all()


def test_conditions_are_found_in_the_table_of_guides():
    rna, guides = cells(["x"] * 20), cells(["ctrl"] * 10 + ["A"] * 10)
    del rna.obs["condition"]
    guides.var_names = ["guide1", "guide2", "guide3"]
    with without_pulling():
        data = mudata.MuData({"rna": rna, "gdo": guides[::-1].copy()})
    assert (read_conditions(data, data["rna"], "condition", known="ABC").codes == np.repeat([0, 1], 10)).all()


def test_coexpression_is_the_naive_correlation():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((50, 9))
    x[:, 1], x[:, 2], x[:, 8] = x[:, 0] + 0.3 * x[:, 1], -x[:, 0] + 0.5 * x[:, 2], 1.0
    graph = coexpression_graph(sp.csr_matrix(x), n_neighbours=2)
    for i in range(9):
        r = [abs(np.corrcoef(x[:, i], x[:, j])[0, 1]) if i != j and 8 not in (i, j) else 0.0 for j in range(9)]
        near = sorted((j for j in range(9) if r[j] > 0.4), key=lambda j: -r[j])[:2]
        kept = graph.neighbours[i][graph.weights[i] > 0]
        assert kept.tolist() == [i, *near]
        expected = np.array([1.0, *(r[j] for j in near)])
        np.testing.assert_allclose(graph.weights[i][: len(kept)], expected / expected.sum(), rtol=1e-5)


def test_shared_terms_are_the_naive_jaccard_and_genes_without_terms_fall_back_on_their_embedding():
    terms = {"t1": ["A", "B", "C"], "t2": ["A", "B"], "t3": ["C", "D"], "t4": ["other"]}
    genes = ["A", "B", "C", "D", "E", "F"]
    embedding = np.array([[1, 0], [0, 1], [1, 1], [0, 1], [1, 0.1], [np.nan, 0]], float)
    graph = term_graph(terms, genes, embedding)
    sets = {gene: {term for term in terms if gene in terms[term]} for gene in genes}
    for i, gene in enumerate("ABCD"):
        near = {other: len(sets[gene] & sets[other]) / len(sets[gene] | sets[other]) for other in "ABCD"}
        expected = {genes.index(other): value for other, value in near.items() if value > 0.1}
        found = {int(j): w for j, w in zip(graph.neighbours[i], graph.weights[i], strict=True) if w}
        assert found.keys() == expected.keys()
        for j, weight in found.items():
            np.testing.assert_allclose(weight, expected[j] / sum(expected.values()), rtol=1e-5)
    assert graph.neighbours[4][:2].tolist() == [4, 0]  # E lies nearest to A
    assert graph.weights[5].tolist() == [1, *[0] * 5]  # F has neither terms nor embedding
    x = np.arange(12.0).reshape(6, 2)
    np.testing.assert_allclose(graph.hop(x)[5], x[5])
    naive = sum(w * x[j] for j, w in zip(graph.neighbours[0], graph.weights[0], strict=True))
    np.testing.assert_allclose(graph.hop(x)[0], naive, rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_a_simulation_split_holds_whole_genes_out(seed):
    split = simulation_split([CONTROL, *SINGLES, *DOUBLES], random_state=seed)
    parts = [split.train, split.validation, split.test]
    assert sorted(itertools.chain(*parts)) == sorted([*SINGLES, *DOUBLES])
    assert all(parts)
    seen = {gene for condition in (*split.train, *split.validation) for gene in condition}
    assert len(seen) == 9
    for condition, subgroup in split.subgroups.items():
        n_seen = sum(gene in seen for gene in condition)
        assert subgroup == ("unseen_single" if len(condition) == 1 else f"seen{n_seen}")
        assert len(condition) == 2 or not n_seen
    assert split == simulation_split([*DOUBLES, *SINGLES], random_state=seed)


@pytest.mark.parametrize("seed", range(10))
def test_several_conditions_validate_where_there_are_enough(seed):
    for split in (simulation_split([*SINGLES, *DOUBLES], random_state=seed), whole_split(SINGLES, random_state=seed)):
        n = len(split.train) + len(split.validation)
        assert len(split.validation) >= min(5, n // 4)
        assert not set(split.train) & set(split.validation)


def test_there_is_always_a_validation_condition():
    split = simulation_split([("A",), ("B",), ("C",)], random_state=1)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [1, 1, 1]
    assert len(whole_split([("A",), ("B",)]).validation) == 1
    with pytest.raises(InputError, match="3 are needed"):
        simulation_split([("A",), ("B",)])


def test_single_splits_leave_pairs_out_and_given_ones_are_kept():
    split = single_split([*SINGLES, *DOUBLES])
    assert len(split.test) == 3
    assert all(len(condition) == 1 for condition in (*split.train, *split.validation, *split.test))
    given = given_split({("A",): "train", ("B",): "val", ("A", "B"): "test", (): "train"})
    assert (given.train, given.validation, given.test) == ((("A",),), (("B",),), (("A", "B"),))
    assert given.subgroups == {("A", "B"): "seen2"}
    assert len(given_split({("A",): "train", ("B",): "train", ("C",): "test"}).validation) == 1
    with pytest.raises(InputError, match="leaves no condition for training"):
        given_split({("A",): "validation", ("B",): "test"})
    with pytest.raises(InputError, match="leaves 1 condition to train on and to choose the epoch by; two are needed"):
        given_split({("A",): "train", ("B",): "test"})
    with pytest.raises(InputError, match="holdout"):
        given_split({("A",): "holdout"})


def test_additive_is_exact_on_additive_data_and_falls_back_on_the_mean():
    generator = np.random.default_rng(0)
    effect = {gene: generator.standard_normal(8) for gene in GENES}
    train = SINGLES[:6]
    changes = np.array([effect[gene] for (gene,) in train])
    found = b.additive(DOUBLES, train, changes)
    np.testing.assert_allclose(found, [effect[p] + effect[q] for p, q in DOUBLES], rtol=1e-5)
    np.testing.assert_allclose(b.additive([("G0", "G9")], train, changes)[0], effect["G0"] + changes.mean(0), rtol=1e-5)
    np.testing.assert_allclose(b.mean_change(DOUBLES[:2], changes), [changes.mean(0)] * 2, rtol=1e-6)
    assert not b.no_change(DOUBLES, 8).any()
    for kind, same in (
        ("effects", b.gene_effects(DOUBLES, train, changes)),
        ("additive", b.additive(DOUBLES, train, changes)),
        ("mean", b.mean_change(DOUBLES, changes)),
        ("none", b.no_change(DOUBLES, 8)),
    ):
        np.testing.assert_array_equal(b.start_changes(kind, DOUBLES, train, changes), same)


def test_effects_of_genes_are_those_of_a_ridge_regression_with_a_mean():
    generator = np.random.default_rng(2)
    train = [*SINGLES[:5], *DOUBLES[:6]]
    genes = sorted({gene for condition in train for gene in condition})
    y = generator.standard_normal((len(train), 4))
    wanted = [("G1",), DOUBLES[7], ("G2", "never"), ("never", "too"), ()]
    found = b.gene_effects(wanted, train, y, ridge=0.3)
    # The same as penalised least squares: the mean effect is free, the own effects are not.
    x = np.array([[len(condition), *(gene in condition for gene in genes)] for condition in train], float)
    penalty = 0.3 * np.diag([0.0, *np.ones(len(genes))])
    beta = np.linalg.solve(x.T @ x + penalty, x.T @ y)
    q = np.array([[len(condition), *(gene in condition for gene in genes)] for condition in wanted], float)
    np.testing.assert_allclose(found, q @ beta, rtol=1e-4, atol=1e-6)


def test_effects_of_genes_find_a_gene_that_was_perturbed_in_pairs_alone():
    generator = np.random.default_rng(3)
    effect = dict(zip(GENES, generator.standard_normal((len(GENES), 8)), strict=True))
    train = [*SINGLES[:5], ("G0", "G7"), ("G1", "G7"), ("G2", "G7")]
    changes = np.array([sum(effect[gene] for gene in condition) for condition in train])
    true = effect["G3"] + effect["G7"]
    found, additive = (f([("G3", "G7")], train, changes)[0] for f in (b.gene_effects, b.additive))
    assert np.linalg.norm(found - true) < 0.2 * np.linalg.norm(additive - true)
    np.testing.assert_allclose(b.gene_effects([("G3", "G7")], train, changes, ridge=1e-9)[0], true, rtol=1e-4)


def test_the_bilinear_fit_is_the_least_penalised_squares():
    generator = np.random.default_rng(1)
    vectors = {gene: generator.standard_normal(3) for gene in GENES}
    train = [*SINGLES[:8], *DOUBLES[:4]]
    y = generator.standard_normal((len(train), 7))
    found = b.bilinear([("G1",), ("G9", "G10")], train, y, vectors, n_components=2, ridge=0.1)
    # The same from the definition, an element at a time.
    mean = y.mean(0)
    u, s, _ = np.linalg.svd((y - mean).T, full_matrices=False)
    g = (u * s)[:, :2]
    p = np.array([sum(vectors[gene] for gene in condition) for condition in train])
    k = np.linalg.inv(g.T @ g + 0.1 * np.eye(2)) @ g.T @ (y - mean).T @ p @ np.linalg.inv(p.T @ p + 0.1 * np.eye(3))
    for row, condition in zip(found, [("G1",), ("G9", "G10")], strict=True):
        q = sum(vectors[gene] for gene in condition)
        for i in range(7):
            assert row[i] == pytest.approx(float(g[i] @ k @ q) + mean[i], rel=1e-4)
    np.testing.assert_allclose(b.bilinear([("other",)], train, y, vectors)[0], mean, rtol=1e-5)  # nothing is known


def test_the_bilinear_fit_recovers_what_is_linear_in_the_vectors():
    generator = np.random.default_rng(2)
    drawn = generator.standard_normal((12, 3)) * 3
    drawn[:9] -= drawn[:9].mean(0)  # the fit has no offset of the vectors
    vectors = dict(zip(GENES, drawn, strict=True))
    weights = generator.standard_normal((3, 20))
    train, test = SINGLES[:9], SINGLES[9:]
    found = b.bilinear(test, train, np.array([vectors[gene] @ weights for (gene,) in train]), vectors)
    for (gene,), row in zip(test, found, strict=True):
        assert correlation(row, vectors[gene] @ weights) > 0.999


def test_principal_vectors_have_unit_length_on_average_and_leave_missing_genes_out():
    features = np.random.default_rng(0).standard_normal((12, 30))
    features[3] = np.nan
    array = b.principal_vectors(features, n_components=4)
    found = b.vectors_by_name(GENES, array)
    assert array.shape == (12, 4)
    assert "G3" not in found
    assert len(found) == 11
    centred = np.delete(features, 3, 0) - np.delete(features, 3, 0).mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    ours = np.abs(np.delete(array, 3, 0))
    naive = np.abs(u[:, :4] * s[:4])
    np.testing.assert_allclose(ours * (naive[0, 0] / ours[0, 0]), naive, rtol=1e-5, atol=1e-6)
    assert np.mean([vector @ vector for vector in found.values()]) == pytest.approx(1)


def test_scores_are_the_naive_ones():
    generator = np.random.default_rng(0)
    control = generator.random(40)
    observed, predicted = (control + 0.3 * generator.standard_normal((3, 40)) for _ in range(2))
    top = [generator.permutation(40)[:20] for _ in range(3)]
    found = m.score_conditions(predicted, observed, control, top)
    for i in range(3):
        for ending, genes in (("", range(40)), ("_top20", top[i])):
            p, o = ([x[i][g] - control[g] for g in genes] for x in (predicted, observed))
            row = found.loc[i]
            assert row[f"mse{ending}"] == pytest.approx(np.mean([(a - c) ** 2 for a, c in zip(p, o, strict=True)]))
            assert row[f"pearson_delta{ending}"] == pytest.approx(np.corrcoef(p, o)[0, 1])
            wrong = sum((a > 0 and c < 0) or (a < 0 and c > 0) for a, c in zip(p, o, strict=True))
            assert row[f"wrong_direction{ending}"] == pytest.approx(wrong / len(p))
            whole = np.corrcoef(predicted[i][list(genes)], observed[i][list(genes)])[0, 1]
            assert row[f"pearson{ending}"] == pytest.approx(whole)
        assert found.loc[i, "l2_1000"] == pytest.approx(np.sqrt(((predicted[i] - observed[i]) ** 2).sum()))
    perfect = m.score_conditions(observed, observed, control, top)
    assert perfect["mse"].max() == 0
    assert perfect["pearson_delta"].min() == pytest.approx(1)
    nothing = m.score_conditions(np.tile(control, (3, 1)), observed, control, top)
    assert not nothing[["pearson_delta", "wrong_direction"]].to_numpy().any()


def test_only_the_most_expressed_genes_count_for_the_distance():
    control = np.arange(1200.0)
    observed = control.copy()
    observed[:200] += 5  # the least expressed
    assert m.score_conditions(control[None], observed[None], control, [np.arange(20)])["l2_1000"][0] == 0


def test_the_most_changed_genes_are_those_of_the_largest_t():
    mean, variance = np.array([1.0, 3.0, 1.2, 0.0]), np.array([1.0, 100.0, 0.01, 1.0])
    control = (np.zeros(4), np.zeros(4), 10)
    assert top_changed(mean, variance, 10, control, 3).tolist() == [2, 0, 1]


def table_of(values: dict) -> pd.DataFrame:
    rows = [
        {"predictor": name, "subgroup": "seen0" if i < 3 else "seen2", "condition": f"c{i}", "pearson_delta": value}
        for name, own in values.items()
        for i, value in enumerate(own)
    ]
    return pd.DataFrame(rows)


def test_summaries_have_intervals_and_the_difference_to_the_best_baseline():
    table = m.summarise(table_of({"network": [0.5, 0.6, 0.7, 0.9], "a": [0.1] * 4, "b": [0.4] * 4}), network="network")
    row = table[(table["subgroup"] == "all") & (table["predictor"] == "network")].iloc[0]
    assert row["mean"] == pytest.approx(0.675)
    assert row["low"] < row["mean"] < row["high"]
    assert row["best_baseline"] == "b"
    assert row["difference"] == pytest.approx(0.275)
    # The baseline is constant here, so that the two are resampled alike.
    assert row["difference_low"] == pytest.approx(row["low"] - 0.4)
    alone = table[(table["subgroup"] == "seen2") & (table["predictor"] == "network")].iloc[0]
    assert alone["n_conditions"] == 1
    assert np.isnan(alone["low"])


def test_predictions_that_hardly_differ_are_warned_of():
    observed = np.random.default_rng(0).standard_normal((5, 30))
    assert m.warn_of_collapse(observed * 0.5, observed) == pytest.approx(0.5)
    with pytest.warns(DataWarning, match="hardly differ between the 5 conditions"):
        m.warn_of_collapse(np.ones((5, 1)) * observed[:1] + 0.01 * observed, observed)


def no_prediction(conditions):
    raise AssertionError("nothing is predicted to list a few candidates")


def test_candidates_are_all_singles_and_pairs():
    found = all_conditions(["C", "A", "B", "A"], no_prediction)
    assert found == [("A",), ("B",), ("C",), ("A", "B"), ("A", "C"), ("B", "C")]
    assert all_conditions(["A", "B"], no_prediction, pairs=False) == [("A",), ("B",)]
    assert all_conditions(["A", "B"], no_prediction, singles=False) == [("A", "B")]


def test_too_many_candidates_are_refused_with_the_time_that_some_of_them_took():
    asked = []

    def predict(conditions):
        asked.append(conditions)
        time.sleep(0.05)
        return np.zeros((len(conditions), 1000), np.float32)

    with pytest.raises(InputError, match=r"1,125,750 perturbations.* 4\.5 GB") as error:
        all_conditions([f"G{i}" for i in range(1500)], predict)
    minutes = float(re.search(r"([\d,.]+) minutes", str(error.value))[1].replace(",", ""))
    assert len(asked[-1]) == 256
    least = 1_125_750 / 256 * 0.05 / 60
    assert least <= minutes < 3 * least
    pairs_only = 1_124_250
    with pytest.raises(InputError, match=f"{pairs_only:,} perturbations"):
        all_conditions([f"G{i}" for i in range(1500)], predict, singles=False)
    assert {len(condition) for condition in asked[-1]} == {2}


def test_nearness_is_that_of_directions_or_of_points():
    target = np.array([1.0, 0.0])
    cosine, euclidean = scores_of(target, np.array([[5.0, 0.0], [1.0, 0.5], [0.0, 0.0], [-1.0, 0.0]]))
    np.testing.assert_allclose(cosine, [1, 2 / np.sqrt(5), 0, -1])
    np.testing.assert_allclose(euclidean, [4, 0.5, 1, 2])
    assert order_of(cosine, euclidean, "cosine").tolist() == [0, 1, 2, 3]
    assert order_of(cosine, euclidean, "euclidean").tolist() == [1, 2, 3, 0]


def test_hits_and_their_chance_are_those_of_random_orders():
    candidates = all_conditions(["A", "B", "C", "D"], no_prediction)
    truth = ("A", "B")
    assert first_hits(np.arange(10), candidates, truth) == (5, 1)
    assert first_hits(np.array([2, 3, 4]), candidates, truth) == (3, 3)
    assert first_hits(np.array([2, 3]), candidates, truth) == (3, 3)
    generator = np.random.default_rng(0)
    ranks = np.array([first_hits(generator.permutation(10), candidates, truth) for _ in range(4000)])
    for k in (1, 3):
        np.testing.assert_allclose((ranks <= k).mean(0), chance_of_hits(candidates, truth, k), atol=0.03)


def test_the_dominant_gene_is_the_one_that_most_pairs_of_a_cluster_share():
    conditions = [("A", "B"), ("A", "C"), ("C", "D"), ("B", "D")]
    table = dominant_genes(np.array([0, 0, 1, 0]), conditions)
    assert table.to_numpy().tolist() == [["0", 3, "A", 2 / 3], ["1", 1, "C", 1.0]]
    few = dominant_genes(np.array([0, 0, 1, 0]), conditions, min_share=0.7)
    assert few.to_numpy().tolist() == [["0", 3, "", 2 / 3], ["1", 1, "C", 1.0]]


def test_a_gene_of_less_than_half_of_a_cluster_is_not_named():
    conditions = [tuple(sorted(pair)) for pair in itertools.combinations("ABCDEFGHI", 2)]
    table = dominant_genes(np.zeros(len(conditions), int), conditions)
    assert table.to_numpy().tolist() == [["0", 36, "", 8 / 36]]
