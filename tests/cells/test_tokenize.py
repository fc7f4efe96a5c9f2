"""Tokens are those of a loop over cells and genes, and depend on nothing but the cell."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from cellfm.cells.tokenize import TokenBatch, tokenize

N_GENES = 60
IDS = np.where(np.arange(N_GENES) % 7 == 0, 0, np.arange(N_GENES) + 1).astype(np.int32)


def loop(counts: np.ndarray, ids: np.ndarray) -> list[dict[int, float]]:
    """Gene id to value of each cell, straight from the definition."""
    cells = []
    for row in counts.astype(float):
        capped = np.round(row / max(1.0, row.sum() / 1e5))
        summed: dict[int, float] = {}
        for gene_id, count in zip(ids, capped, strict=True):
            if gene_id and count > 0:
                summed[int(gene_id)] = summed.get(int(gene_id), 0.0) + count
        total = sum(summed.values())
        cells.append({gene_id: float(np.log1p(count / total * 1e4)) for gene_id, count in summed.items()})
    return cells


def as_cells(batch: TokenBatch) -> list[dict[int, float]]:
    cells = []
    for start, stop in zip(batch.indptr[:-1], batch.indptr[1:], strict=True):
        ids = batch.gene_ids[start:stop].tolist()
        assert len(ids) == len(set(ids)), "a gene is one token"
        cells.append(dict(zip(ids, batch.values[start:stop].tolist(), strict=True)))
    return cells


def assert_same(left: list[dict[int, float]], right: list[dict[int, float]]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for gene_id in one:
            assert one[gene_id] == pytest.approx(other[gene_id], abs=1e-6)


@pytest.fixture
def counts() -> np.ndarray:
    generator = np.random.default_rng(1)
    counts = generator.poisson(generator.gamma(0.6, 3.0, (30, N_GENES)))
    counts[4] = 0
    counts[5] *= 20000  # deeper than the cap
    counts[6, IDS > 0] = 0  # only unknown genes
    return counts


def test_tokens_are_those_of_the_loop(counts: np.ndarray):
    batch = tokenize(sp.csr_matrix(counts), IDS, max_genes=N_GENES)
    assert_same(as_cells(batch), loop(counts, IDS))
    assert batch.gene_ids.dtype == np.int32
    assert batch.values.dtype == np.float32
    assert batch.indptr.dtype == np.int64
    assert batch.lengths[4] == batch.lengths[6] == 0


@pytest.mark.parametrize("name", ["two_layers", "four_layers", "lora"])
def test_values_are_the_golden_ones(golden_dir: Path, name: str):
    golden = np.load(golden_dir / f"{name}.npz")
    counts = sp.csr_matrix((golden["counts"], golden["genes"], golden["indptr"]))
    ids = np.arange(1, counts.shape[1] + 1)
    batch = tokenize(counts, ids, max_genes=counts.shape[1])
    np.testing.assert_array_equal(batch.indptr, golden["indptr"])
    np.testing.assert_array_equal(batch.gene_ids, golden["genes"] + 1)
    np.testing.assert_allclose(batch.values, golden["expression"], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64, np.uint16])
def test_the_type_of_the_counts_does_not_matter(counts: np.ndarray, dtype: type):
    counts = np.minimum(counts, 255)
    assert_same(as_cells(tokenize(sp.csr_matrix(counts.astype(dtype)), IDS, max_genes=N_GENES)), loop(counts, IDS))


def test_depth_is_capped_over_all_measured_genes():
    counts = np.array([[149_990, 6, 50_004]])
    one, other = (tokenize(sp.csr_matrix(counts), np.array(ids), max_genes=9) for ids in ([1, 2, 0], [1, 2, 3]))
    # Depth 200,000: all counts are halved.
    np.testing.assert_allclose(one.values, np.log1p(np.array([74_995, 3]) / 74_998 * 1e4), rtol=1e-6)
    np.testing.assert_allclose(other.values, np.log1p(np.array([74_995, 3, 25_002]) / 100_000 * 1e4), rtol=1e-6)


def test_a_count_that_the_cap_rounds_to_zero_is_no_token():
    batch = tokenize(sp.csr_matrix(np.array([[400_000, 1]])), np.array([1, 2]), max_genes=9)
    assert batch.gene_ids.tolist() == [1]


def test_columns_of_one_gene_are_summed(counts: np.ndarray):
    ids = IDS.copy()
    ids[[3, 20, 41]] = 4
    ids[[8, 9]] = 10
    batch = tokenize(sp.csr_matrix(counts[:4]), ids, max_genes=N_GENES)
    assert_same(as_cells(batch), loop(counts[:4], ids))


def test_explicit_zeros_are_no_tokens(counts: np.ndarray):
    zeros = sp.csr_matrix(counts)
    zeros.data[::3] = 0
    batch = tokenize(zeros, IDS, max_genes=N_GENES)
    assert zeros.nnz == sp.csr_matrix(counts).nnz
    assert_same(as_cells(batch), loop(zeros.toarray(), IDS))


def test_genes_outside_the_vocabulary_change_nothing_below_the_cap(counts: np.ndarray):
    counts = np.minimum(counts, 100)
    known = tokenize(sp.csr_matrix(counts[:, IDS > 0]), IDS[IDS > 0], max_genes=N_GENES)
    assert_same(as_cells(tokenize(sp.csr_matrix(counts), IDS, max_genes=N_GENES)), as_cells(known))


def test_own_values_take_the_place_of_the_normalised_counts(counts: np.ndarray):
    values = np.random.default_rng(2).random(counts.shape).astype(np.float32)
    for given in (values, sp.csr_matrix(values)):
        batch = tokenize(sp.csr_matrix(counts), IDS, max_genes=N_GENES, values=given)
        for row, cell in enumerate(as_cells(batch)):
            known = {int(IDS[j]): values[row, j] for j in range(N_GENES) if IDS[j] and counts[row, j]}
            assert cell == pytest.approx(known)


class TestSampling:
    MAX = 16

    def sample(self, counts: np.ndarray, ids: np.ndarray = IDS, random_state: int = 0) -> list[dict[int, float]]:
        return as_cells(tokenize(sp.csr_matrix(counts), ids, max_genes=self.MAX, random_state=random_state))

    def test_long_cells_keep_exactly_the_most_and_the_others_all(self, counts: np.ndarray):
        whole, sampled = loop(counts, IDS), self.sample(counts)
        assert any(len(cell) > self.MAX for cell in whole)
        for all_of_it, kept in zip(whole, sampled, strict=True):
            assert len(kept) == min(len(all_of_it), self.MAX)
            for gene_id, value in kept.items():  # values are those of the whole cell
                assert value == pytest.approx(all_of_it[gene_id], abs=1e-6)

    def test_it_does_not_depend_on_the_order_of_genes(self, counts: np.ndarray):
        order = np.random.default_rng(3).permutation(N_GENES)
        assert_same(self.sample(counts[:, order], IDS[order]), self.sample(counts))

    def test_it_does_not_depend_on_the_other_cells(self, counts: np.ndarray):
        whole = self.sample(counts)
        order = np.random.default_rng(4).permutation(len(counts))
        assert_same(self.sample(counts[order]), [whole[i] for i in order])
        assert_same(self.sample(counts[:11]) + self.sample(counts[11:]), whole)
        assert_same(self.sample(counts[7:8]), whole[7:8])

    def test_genes_outside_the_vocabulary_do_not_change_it(self, counts: np.ndarray):
        counts = np.minimum(counts, 100)
        assert_same(self.sample(counts[:, IDS > 0], IDS[IDS > 0]), self.sample(counts))

    def test_same_seed_same_genes_other_seed_other_genes(self, counts: np.ndarray):
        long = counts[(counts[:, IDS > 0] > 0).sum(axis=1) > self.MAX]
        assert_same(self.sample(long), self.sample(long))
        changed = [
            a.keys() != b.keys() for a, b in zip(self.sample(long), self.sample(long, random_state=1), strict=True)
        ]
        assert np.mean(changed) > 0.9

    def test_genes_are_kept_as_often_as_their_weight_says(self):
        counts = np.array([1, 1, 2, 4, 8, 30, 100, 1000])
        weights = np.log1p(counts)
        draws, kept = 4000, 3
        generator = np.random.default_rng(5)
        expected = np.zeros(len(counts))
        for _ in range(draws):  # one after the other, without replacement: the definition
            expected[generator.choice(len(counts), kept, replace=False, p=weights / weights.sum())] += 1
        found = np.zeros(len(counts))
        ids = np.arange(1, len(counts) + 1)
        for seed in range(draws):
            batch = tokenize(sp.csr_matrix(counts[None]), ids, max_genes=kept, random_state=seed)
            found[batch.gene_ids - 1] += 1
        # Each frequency has a standard error of at most 0.008, their difference 0.011.
        np.testing.assert_allclose(found / draws, expected / draws, atol=0.045)

    def test_cells_of_equal_depth_draw_differently(self):
        generator = np.random.default_rng(6)
        counts = np.ones((50, 40), int)
        counts[np.arange(50), generator.permutation(50) % 40] += 1 + np.arange(50)
        cells = self.sample(counts, np.arange(1, 41))
        assert len({frozenset(cell) for cell in cells}) == 50
