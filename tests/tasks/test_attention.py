"""Attention read from queries and keys, and markers by permutation: against the slow way, and by laws."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.stats import rankdata

from cellfm.cells.input import read_input
from cellfm.config import ModelConfig
from cellfm.errors import InputError
from cellfm.model import CellFM
from cellfm.tasks.genes import (
    adjusted_over_all,
    cls_scores,
    gene_scores,
    is_tested,
    marker_table,
    mean_scores,
    n_shared_at_top,
    rank_correlation,
    score_matrices,
)
from cellfm.tasks.genes._attention import ranked_scores, scaled_ranks
from cellfm.tasks.genes._lncrnas import group_specificity, permutation_p


def blocks_of(adata, model, layer=1, **kwargs):
    return cls_scores(model, read_input(adata, model.vocab), layer=layer, **kwargs)


def naive_ranks(query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Share of the other genes with a lower score, ties counting half, mean over heads."""
    heads = []
    for head in range(query.shape[0]):
        scores = [float(query[head] @ one[head]) for one in key]
        heads.append([(sum(o < s for o in scores) + (sum(o == s for o in scores) - 1) / 2) / (len(scores) - 1)
                      for s in scores])  # fmt: skip
    return np.mean(heads, axis=0)


def test_ranks_are_those_of_a_naive_count():
    generator = np.random.default_rng(0)
    query, key = generator.integers(0, 3, (2, 4)), generator.integers(0, 3, (9, 2, 4))
    values = generator.integers(1, 4, 9)
    ranks = ranked_scores(query, key, values)
    np.testing.assert_allclose(ranks[:, 0], naive_ranks(query, key), atol=1e-6)
    np.testing.assert_allclose(ranks[:, 1], naive_ranks(np.ones((1, 1)), values[:, None, None]), atol=1e-6)
    assert ranked_scores(query, key[:1], values[:1]).tolist() == [[0.5, 0.5]]


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=2), elements=st.floats(0, 4, width=16)))
def test_ranks_are_those_of_scipy(values):
    expected = (rankdata(values, axis=1) - 1) / (values.shape[1] - 1)
    np.testing.assert_allclose(scaled_ranks(values), expected, atol=1e-6)


def test_heads_that_are_inactive_are_not_read(tiny_adata, tiny_model):
    weights = dict(tiny_model.weights)
    gate = "backbone.layers.1.attention.gate.weight"
    weights[gate] = weights[gate].copy()
    weights[gate][8:] = 0  # the second head
    models = []
    for seed in (0, 1):
        for name in ("query", "key"):
            key = f"backbone.layers.1.attention.{name}.weight"
            weights[key] = weights[key].copy()
            weights[key][8:] = np.random.default_rng(seed).standard_normal((8, 16))
        models.append(CellFM(tiny_model.config, tiny_model.vocab, dict(weights)))
    assert models[0].active_heads.tolist() == [[True, True], [True, False]]
    one, other = (next(blocks_of(tiny_adata, model))[2] for model in models)
    np.testing.assert_array_equal(one, other)


def test_keys_of_the_first_layer_are_those_computed_by_hand(tiny_adata, tiny_model):
    ((_, batch),) = read_input(tiny_adata[:3].copy(), tiny_model.vocab).tokens(2048, 0)
    found = tiny_model.attend(batch, layer=0)
    assert found.cls_query.shape == (3, 2, 8)
    assert found.key.shape == found.query.shape == (len(batch.gene_ids), 2, 8)
    weights = tiny_model.weights
    values = batch.values[:, None] * weights["embed.value.expand.weight"].T
    values = np.where(values > 0, values, 0.2 * values)
    mixed = values @ weights["embed.value.mix.weight"].T + weights["embed.value.skip"] * values
    choice = np.exp(mixed - mixed.max(1, keepdims=True))
    choice /= choice.sum(1, keepdims=True)
    x = weights["embed.gene"][batch.gene_ids] + choice @ weights["embed.value.table.weight"].T
    for array, name in ((found.query, "query"), (found.key, "key")):
        expected = np.maximum(x @ weights[f"backbone.layers.0.attention.{name}.weight"].T, 0)
        np.testing.assert_allclose(array.reshape(len(x), -1), expected, atol=1e-5)


def test_scores_depend_on_the_cell_alone(tiny_adata, tiny_model):
    together = next(blocks_of(tiny_adata, tiny_model))
    alone = next(blocks_of(tiny_adata[7:8].copy(), tiny_model, batch_size=1))
    _, batch, scores = together
    own = slice(batch.indptr[7], batch.indptr[8])
    # A rank may flip where two scores are equal but for rounding.
    np.testing.assert_allclose(scores[own], alone[2], atol=1e-3)
    for i in range(3):
        assert scores[batch.indptr[i] : batch.indptr[i + 1]].min() >= 0
        np.testing.assert_allclose(scores[batch.indptr[i] : batch.indptr[i + 1]].mean(0), 0.5, atol=1e-5)


def test_a_gene_reads_the_others_and_is_read_by_them(tiny_adata, tiny_model):
    cells = read_input(tiny_adata[:4].copy(), tiny_model.vocab)
    ((_, batch),) = cells.tokens(2048, 0)
    found = tiny_model.attend(batch)
    gene = int(batch.gene_ids[5])
    for reads in (True, False):
        _, _, scores = next(gene_scores(tiny_model, cells, gene, reads=reads, layer=1))
        rest = np.delete(np.arange(batch.indptr[1]), 5)
        one, many = (found.query[5], found.key[rest]) if reads else (found.key[5], found.query[rest])
        np.testing.assert_allclose(scores[rest, 0], naive_ranks(one, many), atol=1e-5)
        expressed = naive_ranks(np.ones((1, 1)), batch.values[rest][:, None, None])
        np.testing.assert_allclose(scores[rest, 1], expressed, atol=1e-5)
        assert np.isnan(scores[5]).all()


def test_means_and_matrix_hold_the_same_scores(tiny_adata, tiny_model):
    groups = tiny_adata.obs["label"].cat.codes.to_numpy()
    means, number = mean_scores(blocks_of(tiny_adata, tiny_model), groups, 2, 301)
    chosen = np.array([3, 50, 299])
    matrices = score_matrices(blocks_of(tiny_adata, tiny_model), tiny_adata.n_obs, 301, chosen)
    assert (matrices[0].indices == matrices[1].indices).all()
    for group in (0, 1):
        np.testing.assert_array_equal(
            number[group, chosen], (tiny_adata.X.toarray()[groups == group][:, chosen - 1] > 0).sum(0)
        )
        for mean, matrix in zip(means, matrices, strict=True):
            inside = matrix.toarray()[groups == group]
            np.testing.assert_allclose(inside.sum(0) / number[group, chosen], mean[group, chosen], rtol=1e-4)
    assert np.isnan(means[:, :, 0]).all()


def test_agreement_with_the_control():
    attention, expression = np.array([1.0, 4, 3, np.nan, 2, 5]), np.array([1.0, 2, 3, 4, np.nan, 5])
    assert rank_correlation(attention, expression) == pytest.approx(0.8)  # 1 4 3 5 against 1 2 3 5
    assert np.isnan(rank_correlation(attention[:2], expression[:2]))
    assert np.isnan(rank_correlation(attention, np.ones(6)))
    assert n_shared_at_top(attention, expression, 2) == 1
    assert n_shared_at_top(attention, expression, 20) == 4


def test_layers_that_are_not_there_are_refused(tiny_model, tiny_vocab, tiny_adata):
    ((_, batch),) = read_input(tiny_adata[:2].copy(), tiny_vocab).tokens(2048, 0)
    with pytest.raises(InputError, match="must be from -2 to 1, not 2"):
        tiny_model.attend(batch, layer=2)
    decaying = CellFM(ModelConfig(2, 16, 2, 300, d_value=16, retention="decay"), tiny_vocab)
    with pytest.raises(InputError, match="linear attention, which this model does not have"):
        decaying.attend(batch)


@pytest.fixture
def scored():
    """Scores of 40 genes in 200 cells of three groups: the first gene marks the last group, the others nothing."""
    generator = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], [80, 70, 50])
    scores = generator.random((200, 40)) * (generator.random((200, 40)) < 0.4)
    scores[groups == 2, 0] += 0.5
    return sp.csr_matrix(scores), groups


@pytest.mark.parametrize("kind", [np.int8, np.int64])  # codes of pandas are of the smallest type that holds them
def test_specificity_is_inside_minus_outside(scored, kind):
    scores, groups = scored
    scores, groups = sp.hstack([scores, scores]).tocsr(), groups.astype(kind)  # 3 groups x 80 genes are more than 127
    mean, specificity = group_specificity(scores, groups, 3)
    dense = scores.toarray()
    np.testing.assert_allclose(mean[1], dense[groups == 1].mean(0))
    np.testing.assert_allclose(specificity[1], dense[groups == 1].mean(0) - dense[groups != 1].mean(0))


def test_p_values_of_what_marks_nothing_are_uniform(scored):
    scores, groups = scored
    p = permutation_p(scores, groups, 3, 200)
    assert p[2, 0] == pytest.approx(1 / 201)
    null = np.sort(p[:, 1:].ravel())
    assert np.abs(null - (np.arange(len(null)) + 0.5) / len(null)).max() < 0.13  # Kolmogorov-Smirnov, 1 % at 117


def test_the_table_holds_what_passes_the_filters(scored):
    scores, groups = scored
    names = np.array([f"L{i}" for i in range(40)])
    how = {"n_permutations": 100}
    scores = {"": scores, "half_": scores * 0.5}
    table = marker_table(scores, names, groups, ["a", "b", "c"], min_frac=0.3, **how)
    np.testing.assert_allclose(table["half_specificity"], table["specificity"] / 2)
    assert (table["half_p_value"] == table["p_value"]).all()
    assert table[table["group"] == "c"]["gene"].iloc[0] == "L0"
    assert (table["fraction"] >= 0.3).all()
    assert (table.groupby("group")["specificity"].diff().dropna() <= 0).all()
    assert (table["p_adjusted"] >= table["p_value"]).all()
    everything = marker_table(scores, names, groups, ["a", "b", "c"], min_frac=0.0, **how)
    assert len(everything) == 3 * 40
    pairs = ["group", "gene"]
    both = table.merge(everything, on=pairs)  # a choice of rows changes no p-value
    assert (both["p_adjusted_x"] == both["p_adjusted_y"]).all()
    assert marker_table(scores, names, groups, ["a", "b", "c"], min_frac=1.0, **how)["group"].tolist() == ["c"]


def test_genes_that_enough_cells_express_are_tested(scored):
    scores, _ = scored
    n_cells = (scores.toarray() > 0).sum(0)
    np.testing.assert_array_equal(is_tested(scores, 80), n_cells >= 80)


def test_p_values_are_adjusted_over_all_tests_that_were_made():
    p = np.array([[0.01, 0.04, np.nan], [0.03, 1.0, 0.5]])
    made = np.sort(p[np.isfinite(p)])
    naive = {x: min(1, min(len(made) * y / (i + 1) for i, y in enumerate(made) if y >= x)) for x in made}
    adjusted = adjusted_over_all(p)
    assert np.isnan(adjusted[0, 2])
    for x, found in zip(p.ravel(), adjusted.ravel(), strict=True):
        assert np.isnan(x) or found == pytest.approx(naive[x])
    assert adjusted_over_all(np.empty((3, 0))).shape == (3, 0)
