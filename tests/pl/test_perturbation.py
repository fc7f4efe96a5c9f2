"""`cf.pl.perturbation`: bars and points stand where the layers say."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt

import cellfm as cf
from cellfm.errors import InputError, MissingKeyError


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def adata() -> AnnData:
    generator = np.random.default_rng(0)
    names = [f"G{i}" for i in range(40)]
    found = AnnData(np.zeros((2, 40), np.float32), var=pd.DataFrame(index=names))
    found.obs_names = ["A", "A+B"]
    found.layers["cellfm_change"] = generator.standard_normal((2, 40))
    found.layers["cellfm_observed_change"] = generator.standard_normal((2, 40))
    found.layers["cellfm_observed_change"][1] = np.nan
    return found


def test_bars_are_the_most_changed_genes(adata, tmp_path):
    axes = cf.pl.perturbation(adata, "A", n_genes=5, save=tmp_path / "bars.png")
    observed = adata.layers["cellfm_observed_change"][0]
    top = np.argsort(-np.abs(observed))[:5]
    assert [label.get_text() for label in axes.get_xticklabels()] == [f"G{i}" for i in top]
    heights = [bar.get_height() for bar in axes.patches]
    np.testing.assert_allclose(heights, [*observed[top], *adata.layers["cellfm_change"][0][top]])
    assert (tmp_path / "bars.png").stat().st_size > 5000


def test_what_was_not_observed_has_predicted_bars_only(adata):
    axes = cf.pl.perturbation(adata, "A+B", show=False)
    change = adata.layers["cellfm_change"][1]
    np.testing.assert_allclose([bar.get_height() for bar in axes.patches], change[np.argsort(-np.abs(change))[:20]])
    with pytest.raises(InputError, match="was not observed"):
        cf.pl.perturbation(adata, "A+B", kind="scatter", show=False)


def test_points_are_observed_and_predicted_changes_on_given_axes(adata):
    _, axes = plt.subplots()
    assert cf.pl.perturbation(adata, "A", kind="scatter", n_genes=3, ax=axes, show=False) is axes
    points = axes.collections[0].get_offsets()
    layers = (adata.layers["cellfm_observed_change"][0], adata.layers["cellfm_change"][0])
    np.testing.assert_allclose(points, np.column_stack(layers))
    assert len(axes.texts) == 3


def test_rows_and_layers_that_are_not_there_are_named(adata):
    with pytest.raises(MissingKeyError, match="A, A\\+B"):
        cf.pl.perturbation(adata, "C", show=False)
    with pytest.raises(InputError, match="kind must be"):
        cf.pl.perturbation(adata, "A", kind="violin", show=False)
    del adata.layers["cellfm_change"]
    with pytest.raises(MissingKeyError, match="cellfm_change"):
        cf.pl.perturbation(adata, "A", show=False)
