"""`cf.pl.perturbation`: bars and points stand where the layers say."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt

import cellfm as cf
from cellfm.errors import InputError, MissingKeyError


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


def test_levels_are_control_and_control_with_each_change(adata):
    adata.X = np.asarray(adata.layers["cellfm_change"] + np.arange(40), np.float32)
    axes = cf.pl.perturbation(adata, "A", kind="levels", n_genes=4, show=False)
    observed = adata.layers["cellfm_observed_change"][0]
    top = np.argsort(-np.abs(observed))[:4]
    expected = [*top, *(top + observed[top]), *adata.X[0, top]]
    np.testing.assert_allclose([bar.get_height() for bar in axes.patches], expected, rtol=1e-5)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["control", "observed", "predicted"]


@pytest.fixture
def screen() -> AnnData:
    generator = np.random.default_rng(0)
    found = AnnData(np.zeros((30, 3), np.float32), obs=pd.DataFrame(index=[f"A+B{i}" for i in range(30)]))
    found.obs["cellfm_cluster"] = pd.Categorical(np.repeat(["0", "1", "2"], [15, 10, 5]))
    found.obsm["X_umap"] = generator.standard_normal((30, 2)).astype(np.float32)
    clusters = pd.DataFrame(
        {"cluster": ["0", "1", "2"], "n": [15, 10, 5], "gene": ["A", "B", "A"], "share": [1, 0.5, 0.4]}
    )
    found.uns["cellfm"] = {"perturbation": {"clusters": clusters}}
    return found


def test_a_screen_has_its_clusters_and_the_genes_that_dominate_them(screen, tmp_path):
    axes = cf.pl.perturbation_screen(screen, n_clusters=2, save=tmp_path / "screen.png")
    grey, *named = (np.asarray(points.get_offsets()) for points in axes.collections)
    for own, cluster in zip([grey, *named], ["2", "0", "1"], strict=True):
        np.testing.assert_allclose(own, screen.obsm["X_umap"][screen.obs["cellfm_cluster"] == cluster], rtol=1e-6)
    assert [text.get_text() for text in axes.texts] == ["A", "B"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["0: A (100% of 15)", "1: B (50% of 10)"]
    assert (tmp_path / "screen.png").stat().st_size > 5000
    del screen.obsm["X_umap"]
    with pytest.raises(MissingKeyError, match="umap=True"):
        cf.pl.perturbation_screen(screen, show=False)


def test_a_ranking_keeps_its_order_and_tells_measured_from_predicted():
    table = pd.DataFrame(
        {
            "perturbation": ["A+B", "A", "C"],
            "cosine": [0.9, 0.7, -0.1],
            "euclidean": [2.0, 3.0, 9.0],
            "source": ["predicted", "measured", "predicted"],
        }
    )
    axes = cf.pl.perturbation_ranking(table, highlight="A", show=False)
    labels = axes.get_yticklabels()
    assert [label.get_text() for label in labels] == ["A+B", "A", "C"]
    assert [label.get_fontweight() for label in labels] == ["normal", "bold", "normal"]
    assert axes.yaxis_inverted()
    points = {c.get_label(): np.asarray(c.get_offsets()) for c in axes.collections if c.get_label() in table.to_numpy()}
    np.testing.assert_allclose(points["measured"], [[0.7, 1]])
    np.testing.assert_allclose(points["predicted"], [[0.9, 0], [-0.1, 2]])
    assert len(cf.pl.perturbation_ranking(table, by="euclidean", n_top=2, show=False).get_yticks()) == 2
    with pytest.raises(MissingKeyError, match="'source'"):
        cf.pl.perturbation_ranking(table.drop(columns="source"), show=False)
    with pytest.raises(InputError, match="no candidate"):
        cf.pl.perturbation_ranking(table[:0], show=False)
    with pytest.raises(InputError, match="by must be"):
        cf.pl.perturbation_ranking(table, by="pearson", show=False)


def test_a_cluster_without_a_dominant_gene_has_its_number(screen):
    screen.uns["cellfm"]["perturbation"]["clusters"].loc[1, ["gene", "share"]] = ["", 0.22]
    axes = cf.pl.perturbation_screen(screen, show=False)
    assert [text.get_text() for text in axes.texts] == ["A", "1", "A"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "0: A (100% of 15)",
        "1: none (10)",
        "2: A (40% of 5)",
    ]


@pytest.mark.parametrize("kind", ["bars", "scatter"])
def test_names_of_many_genes_stand_apart(kind):
    generator = np.random.default_rng(0)
    found = AnnData(np.zeros((1, 300), np.float32), var=pd.DataFrame(index=[f"LONGGENE{i}" for i in range(300)]))
    found.obs_names = ["A"]
    found.layers["cellfm_observed_change"] = generator.standard_normal((1, 300))
    found.layers["cellfm_change"] = found.layers["cellfm_observed_change"] * 0.5
    axes = plt.subplots(figsize=(4, 4), layout="constrained")[1]
    cf.pl.perturbation(found, "A", kind=kind, n_genes=80, ax=axes, show=False)
    axes.figure.draw_without_rendering()
    texts = axes.texts if kind == "scatter" else axes.get_xticklabels()
    shown = [text for text in texts if text.get_text() and text.get_visible()]
    boxes = [text.get_window_extent() for text in shown]
    assert 10 <= len(shown) <= 80
    assert not any(one.shrunk(0.9, 0.9).overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
