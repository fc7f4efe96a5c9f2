"""`cf.pl.transport`: what is drawn is what is stored."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import cellfm as cf
from cellfm.errors import InputError, MissingKeyError

STATES = ["before", "predicted", "observed"]


@pytest.fixture
def adata() -> AnnData:
    generator = np.random.default_rng(0)
    state = np.repeat(np.arange(3), [20, 20, 30])
    X = np.abs(generator.standard_normal((70, 12))).astype(np.float32)
    X[state == 2, 5] += 9
    X[state == 2, 2] += 4
    obs = pd.DataFrame({"cellfm_state": pd.Categorical.from_codes(state, STATES)}, index=[f"c{i}" for i in range(70)])
    found = AnnData(X, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(12)]))
    found.obsm["X_cellfm_transport_umap"] = generator.standard_normal((70, 2))
    return found


def test_each_panel_shows_one_state_over_the_others(adata, tmp_path):
    axes = cf.pl.transport(adata, save=tmp_path / "umap.png")
    points = adata.obsm["X_cellfm_transport_umap"]
    assert [ax.get_title() for ax in axes] == ["before (20 cells)", "predicted (20 cells)", "observed (30 cells)"]
    for ax, state in zip(axes, STATES, strict=True):
        own = (adata.obs["cellfm_state"] == state).to_numpy()
        others, drawn = (np.asarray(part.get_offsets()) for part in ax.collections)
        np.testing.assert_allclose(drawn, points[own])
        np.testing.assert_allclose(others, points[~own])
    assert (tmp_path / "umap.png").stat().st_size > 5000


def test_the_most_changed_genes_come_first(adata):
    axes = cf.pl.transport(adata, kind="density", n_genes=2)
    assert [ax.get_title() for ax in axes] == ["G5", "G2"]


def test_a_row_that_is_not_full_has_no_empty_panels(adata):
    axes = cf.pl.transport(adata, kind="density", n_genes=5)
    assert axes[0].figure.axes == axes


def test_histograms_are_shares_of_the_cells(adata):
    (ax,) = cf.pl.transport(adata, kind="density", genes=["G5"])
    for patch, state in zip(ax.patches, STATES, strict=True):
        assert patch.get_label() == state
        values = adata[adata.obs["cellfm_state"] == state, "G5"].X.ravel()
        highest = max(patch.get_xy()[:, 1])
        counts = np.histogram(values, bins=np.linspace(0, adata[:, "G5"].X.max(), 41))[0]
        assert highest == pytest.approx(counts.max() / len(values))


def test_what_is_not_there_is_said(adata):
    with pytest.raises(InputError, match="kind must be 'umap' or 'density', not 'bars'"):
        cf.pl.transport(adata, kind="bars")
    with pytest.raises(MissingKeyError, match="No genes HBB among the 12"):
        cf.pl.transport(adata, kind="density", genes=["G1", "HBB"])
    del adata.obsm["X_cellfm_transport_umap"]
    with pytest.raises(MissingKeyError, match="with umap=True"):
        cf.pl.transport(adata)
    del adata.obs["cellfm_state"]
    with pytest.raises(MissingKeyError, match=r"what cf\.tl\.compare_transport returns"):
        cf.pl.transport(adata)
