"""`cf.pl.integration`: what is stored is drawn, cell by cell, and what is not stored is asked for."""

import numpy as np
import pytest

import cellfm as cf
from cellfm.errors import MissingKeyError


@pytest.fixture
def cells(tiny_adata):
    generator = np.random.default_rng(0)
    for key in ("X_cellfm_umap", "X_cellfm_integrated_umap"):
        tiny_adata.obsm[key] = generator.standard_normal((40, 2)).astype(np.float32)
    tiny_adata.obsm["X_cellfm_umap"][4] = np.nan
    return tiny_adata


def rounded(positions: np.ndarray) -> set[tuple]:
    return {tuple(row) for row in positions.astype(np.float64).round(4).tolist()}


def points(axes) -> set[tuple]:
    return rounded(np.asarray(axes.collections[0].get_offsets()))


def test_draws_both_embeddings_by_batch_and_label(cells, tmp_path):
    before = cells.copy()
    axes = cf.pl.integration(cells, batch_key="batch", label_key="label", save=tmp_path / "cells.png")
    assert [axis.get_title() for axis in axes] == ["before: batch", "before: label", "after: batch", "after: label"]
    assert points(axes[0]) == points(axes[1])
    assert points(axes[2]) == rounded(cells.obsm["X_cellfm_integrated_umap"])
    assert len(points(axes[0])) == 39  # the cell without an embedding is left out
    assert (tmp_path / "cells.png").stat().st_size > 10_000
    assert set(cells.uns) == set(before.uns)


def test_points_of_few_cells_do_not_cover_each_other(cells):
    axes = cf.pl.integration(cells, batch_key="batch", show=False)
    assert {float(axis.collections[0].get_sizes()[0]) for axis in axes} == {60}
    (axis,) = cf.pl.integration(cells, batch_key="batch", before=None, s=7, show=False)
    assert axis.collections[0].get_sizes() == [7]


def test_one_row_and_one_column_are_enough(cells):
    del cells.obsm["X_cellfm_umap"]
    assert len(cf.pl.integration(cells, batch_key="batch", before=None, show=False)) == 1


def test_batches_that_are_numbers_are_groups(cells):
    cells.obs["batch"] = np.arange(40) % 3
    (axis,) = cf.pl.integration(cells, batch_key="batch", before=None, show=False)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["0", "1", "2"]


def test_colours_of_the_data_are_kept(cells):
    cells.uns["batch_colors"] = ["#ff0000", "#0000ff"]
    (axes, *_) = cf.pl.integration(cells, batch_key="batch", show=False)
    drawn = {tuple(color) for color in axes.collections[0].get_facecolors()}
    assert drawn == {(1, 0, 0, 1), (0, 0, 1, 1)}


def test_what_is_missing_is_named(cells):
    with pytest.raises(MissingKeyError, match="'donor' is not a column of obs. Columns: label, batch"):
        cf.pl.integration(cells, batch_key="donor")
    del cells.obsm["X_cellfm_umap"]
    with pytest.raises(MissingKeyError, match="umap=True"):
        cf.pl.integration(cells, batch_key="batch")
