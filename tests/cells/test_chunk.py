"""The layout in chunks holds every token once, and the batches every cell once."""

import numpy as np
import pytest

from cellfm.cells.chunk import chunk_cells, chunks_of, fill_batches
from cellfm.cells.tokenize import TokenBatch

LENGTH = 8


@pytest.fixture
def batch() -> TokenBatch:
    generator = np.random.default_rng(0)
    lengths = np.array([0, 1, 6, 7, 8, 15, 16, 23, 40, 3, 0, 7])  # around the ends of chunks
    indptr = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    ids = np.concatenate([generator.permutation(99)[:n] + 1 for n in lengths]).astype(np.int32)
    return TokenBatch(indptr, ids, generator.random(len(ids)).astype(np.float32))


@pytest.mark.parametrize(("n_genes", "expected"), [(0, 1), (LENGTH - 1, 1), (LENGTH, 2), (2 * LENGTH - 1, 2)])
def test_cls_needs_a_place(n_genes: int, expected: int):
    assert chunks_of(np.array([n_genes]), LENGTH).tolist() == [expected]


@pytest.mark.parametrize("spare", [0, 5])
def test_every_token_stands_once_in_a_chunk_of_its_cell(batch: TokenBatch, spare: int):
    cells = np.array([5, 0, 8, 3, 10, 4])
    needed = int(chunks_of(batch.lengths[cells], LENGTH).sum())
    chunks = chunk_cells(batch, cells, n_chunks=needed + spare, n_slots=len(cells) + spare, length=LENGTH)
    assert chunks.gene_ids.shape == chunks.values.shape == chunks.mask.shape == (needed + spare, LENGTH)

    spans = [slice(batch.indptr[cell], batch.indptr[cell + 1]) for cell in cells]
    ids, values = (np.concatenate([array[span] for span in spans]) for array in (batch.gene_ids, batch.values))
    np.testing.assert_array_equal(chunks.gene_ids.ravel()[chunks.token_row], ids)
    np.testing.assert_array_equal(chunks.values.ravel()[chunks.token_row], values)
    assert len(np.unique(chunks.token_row)) == len(ids)
    owner = np.repeat(np.arange(len(cells)), batch.lengths[cells])
    np.testing.assert_array_equal(chunks.chunk_cell[chunks.token_row // LENGTH], owner)


def test_cls_stands_first_in_the_first_chunk_of_its_cell(batch: TokenBatch):
    cells = np.arange(batch.n_cells)
    chunks = chunk_cells(batch, cells, length=LENGTH)
    assert (chunks.cls_row % LENGTH == 0).all()
    np.testing.assert_array_equal(chunks.chunk_cell[chunks.cls_row // LENGTH], cells)
    np.testing.assert_array_equal(np.unique(chunks.chunk_cell, return_index=True)[1], chunks.cls_row // LENGTH)
    assert (chunks.gene_ids.ravel()[chunks.cls_row] == 0).all()


@pytest.mark.parametrize("spare", [0, 4])
def test_the_mask_is_one_for_cls_and_genes_only(batch: TokenBatch, spare: int):
    cells = np.array([1, 6, 9])
    needed = int(chunks_of(batch.lengths[cells], LENGTH).sum())
    chunks = chunk_cells(batch, cells, n_chunks=needed + spare, n_slots=len(cells) + spare, length=LENGTH)
    expected = np.zeros(chunks.mask.size, np.float32)
    expected[chunks.token_row] = 1
    expected[chunks.cls_row[: len(cells)]] = 1
    np.testing.assert_array_equal(chunks.mask.ravel(), expected)
    assert chunks.mask.sum() == batch.lengths[cells].sum() + len(cells)
    assert not chunks.gene_ids[chunks.mask == 0].any()
    assert not chunks.values[chunks.mask == 0].any()
    assert not chunks.cls_row[len(cells) :].any()


@pytest.mark.parametrize(("n_chunks", "n_slots"), [(6, 3), (6, 100), (40, 4), (1000, 1000)])
def test_batches_hold_each_cell_once_and_never_too_much(n_chunks: int, n_slots: int):
    n_genes = np.random.default_rng(1).integers(0, 6 * LENGTH, 200)
    batches = list(fill_batches(n_genes, n_chunks=n_chunks, n_slots=n_slots, length=LENGTH))
    assert sorted(np.concatenate(batches)) == list(range(200))
    for cells in batches:
        assert 0 < len(cells) <= n_slots
        assert chunks_of(n_genes[cells], LENGTH).sum() <= n_chunks


def test_no_cells_give_no_batches():
    assert list(fill_batches(np.zeros(0, int), n_chunks=4, n_slots=4)) == []
