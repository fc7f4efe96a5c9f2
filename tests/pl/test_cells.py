"""`cf.pl.cells`: draws what is stored, says what is missing."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import cellfm as cf
from cellfm.errors import InputError, MissingKeyError


@pytest.fixture
def drawn(tiny_adata):
    tiny_adata.obsm["X_umap"] = np.random.default_rng(0).random((tiny_adata.n_obs, 2))
    yield tiny_adata
    plt.close("all")


def test_one_panel_for_each_colouring(drawn):
    axes = cf.pl.cells(drawn, color=["label", "batch", "GENE3"], show=False)
    assert [axis.get_title() for axis in axes] == ["label", "batch", "GENE3"]
    offsets = axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(np.sort(offsets, axis=0), np.sort(drawn.obsm["X_umap"], axis=0))


def test_points_of_few_cells_do_not_cover_each_other(drawn):
    assert cf.pl.cells(drawn, color="label", show=False).collections[0].get_sizes() == [60]
    assert cf.pl.cells(drawn, color="label", size=9, show=False).collections[0].get_sizes() == [9]
    assert cf.pl.cells(drawn, color="label", s=8, show=False).collections[0].get_sizes() == [8]


def test_axes_of_the_user(drawn):
    _, ax = plt.subplots()
    assert cf.pl.cells(drawn, color="label", ax=ax, title="Cells", show=False) is ax
    assert ax.get_title() == "Cells"


def test_saving(drawn, tmp_path):
    cf.pl.cells(drawn, save=tmp_path / "cells.png")
    assert (tmp_path / "cells.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"'cells\.doc'.*png"):
        cf.pl.cells(drawn, save="cells.doc")
    with pytest.raises(InputError, match="Could not write"):
        cf.pl.cells(drawn, save=tmp_path / "nowhere" / "cells.png")


def test_what_is_missing_is_named(drawn):
    with pytest.raises(MissingKeyError, match=r"sc\.tl\.umap"):
        cf.pl.cells(drawn, basis="X_tsne")
    with pytest.raises(MissingKeyError, match="'cell_type'.*label, batch"):
        cf.pl.cells(drawn, color="cell_type")
    with pytest.raises(InputError, match="1 title for 2 panels; pass one for each"):
        cf.pl.cells(drawn, color=["label", "batch"], title=["Label"])
    with pytest.raises(InputError, match="one colouring"):
        cf.pl.cells(drawn, color=["label", "batch"], ax=plt.gca())
