"""Batches follow from seed, step and cell alone; every cell is trained on, and validation cells never are."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp

from cellfm.cells.chunk import depth_values
from cellfm.config import ModelConfig, TrainConfig
from cellfm.corpus._cell_table import CellTable
from cellfm.errors import InputError
from cellfm.train._feed import Feed, MicroBatch

N_CELLS = 60
VALIDATION = np.arange(N_CELLS) >= 48
SOURCE = np.repeat([0, 1, 2], 20).astype(np.int32)
TYPE = (np.arange(N_CELLS) % 3 - 1).astype(np.int32)  # -1: unknown
TRAIN = {"batch_size": 8, "n_chunks": 40, "train_genes": 120}


@pytest.fixture(scope="module")
def corpus(tiny_vocab) -> CellTable:
    generator = np.random.default_rng(0)
    mean = generator.gamma(0.4, 2.0, (N_CELLS, len(tiny_vocab)))
    counts = sp.csr_matrix(generator.poisson(mean * generator.uniform(0.3, 2, (N_CELLS, 1))).astype(np.float32))
    total = np.asarray(counts.sum(1)).ravel() * 1.5  # a third of the counts are of unknown genes
    return CellTable(counts, tiny_vocab, VALIDATION, total, {"source": SOURCE, "cell_type": TYPE})


def feed_of(corpus, *, rank=0, size=1, model=None, **train) -> Feed:
    shape = {"n_layers": 1, "d_model": 16, "n_heads": 2, "n_genes": 300} | (model or {})
    return Feed(corpus, ModelConfig(**shape), TrainConfig(**(TRAIN | train)), rank=rank, size=size)


def cells_of(micro: MicroBatch) -> list[dict[int, tuple[float, float, float]]]:
    """Gene to value, visible and target of every slot that has a cell."""
    found = []
    for slot in np.flatnonzero(micro.label > -2):
        chunks = micro.chunk_cell == slot
        gene = (micro.gene_ids > 0) & (micro.mask > 0) & chunks[:, None]
        columns = (micro.gene_ids[gene], micro.values[gene], micro.visible[gene], micro.target[gene])
        found.append({int(g): tuple(map(float, rest)) for g, *rest in zip(*columns, strict=True)})
    return found


def all_cells(batch) -> list[dict[int, tuple[float, float, float]]]:
    return [cell for micro in batch.micro for cell in cells_of(micro)]


def same(some: MicroBatch, others: MicroBatch) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(some, others, strict=True))


def test_every_training_cell_once_an_epoch(corpus):
    feed = feed_of(corpus)
    assert feed.steps_per_epoch == 6
    for epoch in range(3):
        seen = np.concatenate([feed.cells_of(epoch * 6 + step) for step in range(6)])
        np.testing.assert_array_equal(np.sort(seen), np.flatnonzero(~VALIDATION))
    assert (feed.cells_of(0) != feed.cells_of(6)).any(), "each epoch has its own order"


def test_what_does_not_fill_a_batch_waits_for_another_epoch(corpus):
    feed = feed_of(corpus, batch_size=7)
    epochs = [np.concatenate([feed.cells_of(6 * epoch + step) for step in range(6)]) for epoch in range(20)]
    for seen in epochs:
        assert len(np.unique(seen)) == len(seen) == 42
    assert set(np.concatenate(epochs)) == set(np.flatnonzero(~VALIDATION))


def test_a_corpus_smaller_than_a_batch_is_one_batch(corpus):
    feed = feed_of(corpus, batch_size=100, n_chunks=400)
    assert feed.steps_per_epoch == 1
    np.testing.assert_array_equal(np.sort(feed.cells_of(5)), np.flatnonzero(~VALIDATION))


def test_validation_cells_are_the_others(corpus):
    feed = feed_of(corpus)
    assert sum(batch.n_cells for batch in feed.validation()) == VALIDATION.sum()
    assert sum(batch.n_cells for batch in feed_of(corpus, n_validation=5).validation()) == 5
    shown = [set(cell) for batch in feed.validation() for cell in all_cells(batch)]
    expressed = [set(corpus.counts(np.array([cell])).indices + 1) for cell in np.flatnonzero(VALIDATION)]
    assert all(genes <= whole for genes, whole in zip(shown, expressed, strict=True))


def test_validation_is_the_same_at_every_call(corpus):
    first, second = (feed_of(corpus, thin_probability=0.5).validation() for _ in range(2))
    assert all(
        same(one, other)
        for left, right in zip(first, second, strict=True)
        for one, other in zip(left.micro, right.micro, strict=True)
    )


AUGMENTED = {"thin_probability": 0.5, "panel_probability": 0.5, "zero_fraction": 0.5, "contrast_weight": 1.0}


@pytest.mark.parametrize("options", [{}, AUGMENTED], ids=["plain", "augmented"])
def test_a_batch_depends_on_seed_and_step_only(corpus, options):
    feed = feed_of(corpus, **options)
    for step in (9, 2):  # in another order than in one run
        fresh = feed_of(corpus, **options).batch(step)
        assert all(same(one, other) for one, other in zip(feed.batch(step).micro, fresh.micro, strict=True))
    other = feed_of(corpus, **options, random_state=1).batch(2)
    assert not same(other.micro[0], fresh.micro[0])


@pytest.mark.parametrize("options", [{}, AUGMENTED], ids=["plain", "augmented"])
def test_two_processes_see_what_one_sees(corpus, options):
    for step in (0, 7):
        alone = feed_of(corpus, **options).batch(step)
        parts = [feed_of(corpus, **options, rank=rank, size=2).batch(step) for rank in (0, 1)]
        together = [cell for part in parts for cell in all_cells(part)]
        assert sorted(map(repr, all_cells(alone))) == sorted(map(repr, together))
        assert alone.n_targets == sum(part.n_targets for part in parts)
        assert alone.n_cells == sum(part.n_cells for part in parts)


def test_the_look_of_a_cell_does_not_depend_on_its_batch(corpus):
    small, large = feed_of(corpus, batch_size=4), feed_of(corpus, batch_size=8)
    cells = np.array([3, 11])
    one = all_cells(small._assemble(cells, key=5))
    other = all_cells(large._assemble(np.array([40, 11, 7, 3]), key=5))
    assert one == [other[3], other[1]]


def test_masking_is_that_of_the_paper(corpus):
    for step in range(3):
        batch = feed_of(corpus).batch(step)
        for cell in all_cells(batch):
            _, visible, target = np.array(list(cell.values())).T
            assert target.sum() == int(0.2 * len(cell))
            assert (visible == 0).sum() == int(0.8 * int(0.2 * len(cell)))
            assert (target[visible == 0] == 1).all()
        assert batch.n_targets == sum(micro.target.sum() for micro in batch.micro)
        assert all(micro.inv_targets == np.float32(1 / batch.n_targets) for micro in batch.micro)
        assert not any((micro.target[micro.gene_ids <= 0]).any() for micro in batch.micro)


def test_another_step_asks_for_other_genes(corpus):
    feed = feed_of(corpus)
    asked = [
        {gene for gene, (_, _, target) in all_cells(feed._assemble(np.array([0]), key=key))[0].items() if target}
        for key in range(2)
    ]
    assert asked[0] != asked[1]


def test_batch_by_gives_one_value_a_batch(corpus):
    feed = feed_of(corpus, batch_by="source")
    assert feed.steps_per_epoch == 2 + 2 + 1  # 20, 20 and 8 training cells
    sources = [set(SOURCE[feed.cells_of(step)]) for step in range(5)]
    assert all(len(found) == 1 for found in sources)
    assert set.union(*sources) == {0, 1, 2}


def test_batch_by_says_which_cells_it_leaves_out(corpus, caplog):
    feed = feed_of(corpus, batch_by="source", batch_size=10)
    assert "8 of 48 training cells are never seen" in caplog.text
    assert set(SOURCE[np.concatenate([feed.cells_of(step) for step in range(4)])]) == {0, 1}
    with pytest.raises(InputError, match="No value of batch_by = 'source' has the 30 training cells"):
        feed_of(corpus, batch_by="source", batch_size=30)


@pytest.mark.parametrize("options", [{}, {"contrast_weight": 1.0}], ids=["one view", "two views"])
def test_accumulation_splits_the_batch_and_changes_nothing_else(corpus, options):
    whole = feed_of(corpus, **options).batch(1)
    split = feed_of(corpus, **options, n_chunks=8).batch(1)
    assert len(whole.micro) == 1 < len(split.micro)
    assert sorted(map(repr, all_cells(whole))) == sorted(map(repr, all_cells(split)))
    assert (whole.n_targets, whole.n_cells) == (split.n_targets, split.n_cells)
    assert sum(float(micro.share) for micro in split.micro) == pytest.approx(1, abs=1e-6)
    for micro in split.micro:
        assert micro.gene_ids.shape == (8, 64)
        assert micro.inv_targets == whole.micro[0].inv_targets


@pytest.mark.parametrize("n_chunks", [8, 40])
def test_partner_is_the_other_view_of_the_same_cell(corpus, n_chunks):
    feed = feed_of(corpus, contrast_weight=1.0, thin_probability=1.0, n_chunks=n_chunks)
    batch, whole = feed.batch(0), corpus.counts(feed.cells_of(0))
    expressed = [set(whole[row].indices + 1) for row in range(whole.shape[0])]
    n_views = 0
    for micro in batch.micro:
        cells = cells_of(micro)
        partner = micro.partner[: len(cells)]
        np.testing.assert_array_equal(partner[partner], np.arange(len(cells)))
        assert (partner != np.arange(len(cells))).all()
        assert (micro.partner[len(cells) :] == -1).all()
        for one, other in zip(cells, partner, strict=True):
            found = [row for row, genes in enumerate(expressed) if set(one) <= genes]
            assert found == [row for row, genes in enumerate(expressed) if set(cells[other]) <= genes]
            assert one != cells[other], "the views differ"
        n_views += len(cells)
    assert n_views == 2 * batch.n_cells


def test_one_view_has_no_partner(corpus):
    assert (feed_of(corpus).batch(0).micro[0].partner == -1).all()


def test_kind_is_the_type_within_its_source(corpus):
    feed = feed_of(corpus, type_weight=1.0)
    cells = feed.cells_of(0)
    kind = feed.batch(0).micro[0].label
    assert (kind[len(cells) :] == -2).all()
    kind = kind[: len(cells)]
    for i, one in enumerate(cells):
        assert (kind[i] == -1) == (TYPE[one] < 0)
        for j, other in enumerate(cells):
            if kind[i] >= 0 and kind[j] >= 0:
                assert (kind[i] == kind[j]) == ((TYPE[one], SOURCE[one]) == (TYPE[other], SOURCE[other]))
    assert (feed_of(corpus).batch(0).micro[0].label[: len(cells)] == -1).all(), "types are not read if not asked for"


@pytest.mark.parametrize("panel", [0.0, 1.0])
def test_zero_modelling_adds_unexpressed_genes_only(corpus, panel):
    options = {"train_genes": 120, "panel_probability": panel}
    feed = feed_of(corpus, zero_fraction=0.5, **options)
    shown, without = all_cells(feed.batch(0)), all_cells(feed_of(corpus, **options).batch(0))
    added = 0
    for number, cell, plain in zip(feed.cells_of(0), shown, without, strict=True):
        expressed = set(corpus.counts(np.array([number])).indices + 1)
        zeros = {gene for gene, (value, _, _) in cell.items() if value == 0}
        assert not zeros & expressed
        assert cell.keys() - zeros == plain.keys()
        assert len(cell) <= 120
        assert len(zeros) <= len(plain) // 2
        added += len(zeros)
    assert added


def test_training_shows_no_more_genes_than_asked_for(corpus):
    assert max(map(len, all_cells(feed_of(corpus, train_genes=30).batch(0)))) == 30
    assert max(map(len, all_cells(feed_of(corpus, train_genes=90, model={"max_genes": 20}).batch(0)))) == 20


def test_panels_leave_genes_out_and_thinning_changes_values(corpus):
    plain = all_cells(feed_of(corpus).batch(0))
    panels = all_cells(feed_of(corpus, panel_probability=1.0).batch(0))
    thinned = all_cells(feed_of(corpus, thin_probability=1.0, train_genes=300, n_chunks=80).batch(0))
    whole = all_cells(feed_of(corpus, train_genes=300, n_chunks=80).batch(0))
    assert sum(map(len, panels)) < sum(map(len, plain))
    assert [cell.keys() for cell in thinned] == [cell.keys() for cell in whole]
    assert thinned != whole


def test_depth_tokens_carry_the_depth_before_and_after(corpus):
    for thinning in (0.0, 1.0):
        feed = feed_of(corpus, model={"depth_tokens": True}, thin_probability=thinning)
        micro, cells = feed.batch(0).micro[0], feed.cells_of(0)
        rows = micro.cls_row[: len(cells)]
        np.testing.assert_array_equal(micro.gene_ids.ravel()[rows[:, None] + [0, 1, 2]], [[0, -1, -2]] * len(cells))
        before, after = micro.values.ravel()[rows[:, None] + [1, 2]].T
        depth = corpus.depth(cells)
        np.testing.assert_allclose(before, depth_values(depth, depth)[:, 0])
        if thinning:
            assert (after < before).all()
        else:
            np.testing.assert_allclose(after, before, rtol=1e-6)


def test_all_genes_of_a_cell_are_in_one_chunk_for_retention_with_decay(corpus):
    micro = feed_of(corpus, model={"retention": "decay"}).batch(0).micro[0]
    assert micro.gene_ids.shape == (40, 121)
    np.testing.assert_array_equal(micro.chunk_cell[:8], np.arange(8))


@pytest.mark.parametrize(("views", "needed"), [({}, 2), ({"contrast_weight": 1.0}, 4)])
def test_room_for_less_than_one_cell_is_refused(corpus, views, needed):
    feed_of(corpus, n_chunks=needed, **views).batch(0)
    with pytest.raises(
        InputError, match=f"n_chunks = {needed - 1} is too small: a cell of 120 genes alone needs {needed}"
    ):
        feed_of(corpus, n_chunks=needed - 1, **views)


def test_more_processes_than_cells_of_a_batch_are_refused(corpus):
    with pytest.raises(InputError, match="A batch of 8 cells cannot be split over 9 processes"):
        feed_of(corpus, size=9)


def test_no_training_cells_are_refused(corpus):
    with pytest.raises(InputError, match="no training cells"):
        feed_of(dataclasses.replace(corpus, validation=np.ones(N_CELLS, bool)))
