"""`method="auto"`: which candidate is chosen, by which folds, and what cells with other genes are given."""

import numpy as np
import pytest
import scipy.sparse as sp

from cellfm.errors import DataWarning, InputError
from cellfm.tasks.annotation._choose import CANDIDATES, N_FOLDS, PREFERRED, TOLERANCE, Described, choose, folds
from cellfm.tasks.annotation._features import MODEL, TARGET_SUM
from cellfm.tasks.annotation._gene_space import GeneSpace, log_values
from cellfm.tasks.annotation._head import CombinedHead, head_of


def described(*, embedding: float, genes: float, n: int = 240, n_genes: int = 80, seed: int = 0) -> Described:
    """Three classes that lie apart in the embedding and in the genes by these distances; 0 is noise."""
    generator = np.random.default_rng(seed)
    codes = np.arange(n) % 3
    x = generator.normal(size=(n, 64)) + embedding * np.eye(64)[codes]
    values = np.maximum(generator.normal(1, 1, (n, n_genes)) + genes * np.eye(n_genes)[codes], 0)
    weight = np.ones(n, np.float32)
    ids = np.arange(1, n_genes + 1, dtype=np.int32)
    return Described(codes, weight, x.astype(np.float32), ids, sp.csr_matrix(values.astype(np.float32)), 1)


def chosen(selection) -> str:
    return selection["candidate"][selection["chosen"]].item()


def test_noise_in_the_embedding_is_left_out():
    assert MODEL not in CANDIDATES[chosen(choose(described(embedding=0, genes=4), None))]


def test_noise_in_the_genes_is_left_out():
    assert chosen(choose(described(embedding=4, genes=0), None)) == "cellfm"


def test_the_average_is_preferred_where_all_are_as_good():
    selection = choose(described(embedding=9, genes=9), None)
    scores = selection.set_index("candidate")["mean_score"]
    assert chosen(selection) == PREFERRED
    assert scores[PREFERRED] >= scores.max() - TOLERANCE
    assert selection["candidate"].tolist() == list(CANDIDATES)
    assert (selection["sd_score"] >= 0).all()


def test_groups_show_what_fails_on_another_group():
    """The embedding of each group has marks of its own, by which its classes can be told, and no others."""
    of = described(embedding=0, genes=2.5)
    groups = np.array(["a", "b", "c", "d"])[np.arange(240) // 60]
    shift = np.random.default_rng(1).normal(size=(4, 3, 64)) * 3
    own = Described(**(vars(of) | {"embedding": of.embedding + shift[np.arange(240) // 60, of.codes].astype("f4")}))
    within, across = choose(own, None), choose(own, groups)
    of_model = [selection.set_index("candidate")["mean_score"]["cellfm"] for selection in (within, across)]
    assert of_model[0] > 0.95
    assert of_model[1] < 0.6
    assert chosen(across) != "cellfm"


def test_no_group_is_in_both_parts_of_a_fold():
    codes, groups = np.arange(60) % 2, np.array([f"donor{i}" for i in np.arange(60) // 10])
    parts = folds(codes, groups)
    assert len(parts) == N_FOLDS
    assert all(not set(groups[train]) & set(groups[test]) for train, test in parts)
    np.testing.assert_array_equal(np.sort(np.concatenate([test for _, test in parts])), np.arange(60))
    two = folds(codes, np.where(np.arange(60) < 10, "a", "b"))
    assert [len(test) for _, test in two] in ([10, 50], [50, 10])


def test_cells_of_one_group_have_random_folds():
    codes = np.arange(60) % 2
    with pytest.warns(DataWarning, match="all cells that are compared are of one group"):
        found = folds(codes, np.full(60, "a"))
    for pair, same in zip(found, folds(codes, None), strict=True):
        for rows, expected in zip(pair, same, strict=True):
            np.testing.assert_array_equal(rows, expected)


def test_a_group_that_the_sample_misses_is_no_group(monkeypatch):
    monkeypatch.setattr("cellfm.tasks.annotation._choose.MAX_CELLS", 30)
    rows = np.random.default_rng(0).permutation(60)[:30]
    groups = np.where(np.isin(np.arange(60), rows), "a", "b")
    with pytest.warns(DataWarning, match="all cells that are compared are of one group"):
        assert len(folds(np.arange(60) % 2, groups)) == N_FOLDS


def test_test_cells_have_a_class_that_training_has():
    codes = np.array([0, 1] * 20 + [2])
    assert all(np.isin(codes[test], codes[train]).all() for train, test in folds(codes, None))


def test_a_group_of_few_cells_is_told():
    groups = np.where(np.arange(60) < 2, "a", "b")
    with pytest.warns(DataWarning, match="has only 2 cells, because a group is small"):
        folds(np.arange(60) % 2, groups)


def test_groups_of_one_class_each_are_refused():
    codes = np.repeat([0, 1], 20)
    with pytest.raises(InputError, match="each group holds cells of its own classes alone"):
        folds(codes, codes.astype(str))


def test_what_is_fitted_to_some_cells_does_not_depend_on_others():
    of = described(embedding=1, genes=1)
    rows = np.flatnonzero(np.arange(240) % 4 > 0)
    other = Described(**(vars(of) | {"values": of.values.multiply(np.isin(np.arange(240), rows)[:, None]).tocsr()}))
    inputs = CANDIDATES["cellfm+pca+genes"]
    some, same = (cells.fit(inputs, rows)[0].arrays() for cells in (of, other))
    assert some.keys() == same.keys()
    for name, array in some.items():
        np.testing.assert_array_equal(array, same[name])


def test_a_head_from_its_arrays_is_the_same():
    of = described(embedding=1, genes=1)
    for inputs in CANDIDATES.values():
        head, history = of.fit(inputs, np.arange(240))
        again = head_of("combined", head.arrays())
        assert isinstance(again, CombinedHead)
        np.testing.assert_array_equal(again.logits(of.values, of.embedding), head.logits(of.values, of.embedding))
        assert history["features"].tolist() == list(inputs)


class Cells:
    """Cells of which only the genes are read."""

    values = None

    def __init__(self, counts, ids):
        self.counts, self.match = self, type("Match", (), {"ids": np.asarray(ids)})
        self.table = sp.csr_matrix(counts.astype(np.float32))

    def blocks(self, size):
        for start in range(0, self.table.shape[0], size):
            yield slice(start, min(start + size, self.table.shape[0])), self.table[start : start + size]


COUNTS = np.random.default_rng(0).poisson(3, (700, 12)) + 1
IDS = np.array([5, 0, 3, 9, 5, 11, 2, 7, 8, 4, 6, 1])


def space_of(counts, ids):
    known = np.unique(ids[ids > 0]).astype(np.int32)
    values = sp.vstack([block for _, block in log_values(Cells(counts, ids), known)], format="csr")
    return GeneSpace.fit(known, values), values.toarray()


def test_values_are_logarithms_of_counts_per_ten_thousand_of_the_genes():
    space, values = space_of(COUNTS, IDS)
    expected = np.zeros((700, 12))
    for column, i in enumerate(IDS):
        expected[:, i] += COUNTS[:, column]  # two rows of one gene are added up
    expected = expected[:, space.ids]
    np.testing.assert_allclose(values, np.log1p(TARGET_SUM * expected / expected.sum(1, keepdims=True)), rtol=1e-4)


def test_order_of_genes_does_not_matter_and_others_are_not_read():
    space, values = space_of(COUNTS, IDS)
    order = np.random.default_rng(1).permutation(12)
    more = np.hstack([COUNTS[:, order], COUNTS])
    blocks = list(space.blocks(Cells(more, np.concatenate((IDS[order], np.full(12, 99))))))
    assert len(blocks) == 2
    np.testing.assert_allclose(np.vstack([genes for _, genes in blocks]), values, rtol=1e-4)


def test_missing_genes_are_given_the_mean_and_the_others_keep_their_scale():
    space, values = space_of(COUNTS, IDS)
    kept = ~np.isin(IDS, [9, 11, 2])
    missing = np.isin(space.ids, [9, 11, 2])
    found = np.vstack([genes for _, genes in space.blocks(Cells(COUNTS[:, kept], IDS[kept]))])
    np.testing.assert_array_equal(space.missing(Cells(COUNTS[:, kept], IDS[kept])), missing)
    np.testing.assert_allclose(found[:, missing], np.tile(space.mean[missing], (700, 1)))
    np.testing.assert_allclose(found[:, ~missing].mean(0), values[:, ~missing].mean(0), atol=0.05)
