"""`cf.pl.annotation`: squares are shares of cells, bars are quantiles, and what is missing is named."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import cellfm as cf
from cellfm.errors import InputError, MissingKeyError


@pytest.fixture
def annotated(tiny_adata):
    said = ["A", "B", "Unknown", "B"] * 10
    tiny_adata.obs["cellfm_label"] = pd.Categorical(said, ["A", "B", "Unknown"])
    tiny_adata.obs["cellfm_label_raw"] = pd.Categorical(["A", "B"] * 20)
    tiny_adata.obs["cellfm_confidence"] = np.linspace(0.2, 1, 40, dtype=np.float32)
    tiny_adata.uns["cellfm"] = {"cellfm_proba": {"confidence_threshold": 0.35}}
    yield tiny_adata
    plt.close("all")


def names(labels) -> list[str]:
    return [label.get_text() for label in labels]


def test_squares_are_shares_of_the_true_label(annotated):
    axis = cf.pl.annotation(annotated, labels_key="label", panels="confusion", show=False)
    assert names(axis.get_xticklabels()) == ["A", "B", "Unknown"]
    assert names(axis.get_yticklabels()) == ["A (20)", "B (20)"]
    np.testing.assert_allclose(axis.images[0].get_array(), [[0.5, 0, 0.5], [0, 1, 0]])
    assert sorted(names(axis.texts)) == ["100", "50", "50"]


def test_labels_that_only_one_side_has_come_last(annotated):
    annotated.obs["truth"] = np.where(annotated.obs["label"] == "A", "a kind of A", "B")
    axis = cf.pl.annotation(annotated, labels_key="truth", panels="confusion", show=False)
    assert names(axis.get_xticklabels()) == ["B", "A", "Unknown"]
    assert names(axis.get_yticklabels()) == ["B (20)", "a kind of A (20)"]


def test_cells_without_true_label_are_left_out(annotated):
    annotated.obs["truth"] = annotated.obs["label"].where(np.arange(40) < 10)
    axis = cf.pl.annotation(annotated, labels_key="truth", panels="confusion", show=False)
    assert names(axis.get_yticklabels()) == ["A (5)", "B (5)"]
    annotated.obs["truth"] = annotated.obs["label"].astype(str).where(np.arange(40) < 10, "nan")
    axis = cf.pl.annotation(annotated, labels_key="truth", panels="confusion", show=False)
    assert names(axis.get_yticklabels()) == ["A (5)", "B (5)"]
    annotated.obs["truth"] = np.nan
    with pytest.raises(InputError, match="No cell has a label"):
        cf.pl.annotation(annotated, labels_key="truth")


def test_bars_are_the_middle_half_of_the_confidence(annotated):
    axis = cf.pl.annotation(annotated, show=False)  # the only panel without true labels
    assert names(axis.get_yticklabels()) == ["B (20)", "A (20)"]
    for name, bar in zip("BA", axis.patches, strict=True):
        confidence = annotated.obs["cellfm_confidence"][annotated.obs["cellfm_label_raw"] == name]
        np.testing.assert_allclose([bar.get_x(), bar.get_x() + bar.get_width()], np.percentile(confidence, (25, 75)))
    assert axis.lines[-1].get_xdata()[0] == 0.35


def test_both_panels_axes_of_the_user_and_saving(annotated, tmp_path):
    axes = cf.pl.annotation(annotated, labels_key="label", save=tmp_path / "labels.png")
    assert len(axes) == 2
    assert (tmp_path / "labels.png").read_bytes().startswith(b"\x89PNG")
    _, ax = plt.subplots()
    assert cf.pl.annotation(annotated, panels="confidence", ax=ax, show=False) is ax


def test_many_long_names_are_read_in_small_axes_too(annotated):
    numbers = np.arange(40) // 2
    labels = [f"{i}-positive, alpha-beta memory T cell of the blood, CD45RO-positive" for i in numbers]
    annotated.obs["cellfm_label"] = annotated.obs["cellfm_label_raw"] = annotated.obs["truth"] = labels
    ax = plt.subplots(figsize=(4, 3))[1]
    for axis in (ax, *cf.pl.annotation(annotated, labels_key="truth", show=False)):
        if axis is ax:
            cf.pl.annotation(annotated, labels_key="truth", panels="confusion", ax=ax, show=False)
        axis.figure.draw_without_rendering()
        shown = [label for label in axis.get_yticklabels() if label.get_visible()]
        assert len(shown) == 20 or axis is ax
        assert all(len(label.get_text()) <= 36 + len(" (2)") for label in shown)
        spans = sorted((label.get_window_extent().y0, label.get_window_extent().y1) for label in shown)
        assert all(end < start + 1 for (_, end), (start, _) in itertools.pairwise(spans))
    assert not ax.texts  # the squares have no room for them


def test_what_is_missing_is_named(annotated):
    with pytest.raises(MissingKeyError, match="'cell_type' is not a column.*label, batch"):
        cf.pl.annotation(annotated, labels_key="cell_type")
    with pytest.raises(InputError, match="needs labels_key="):
        cf.pl.annotation(annotated, panels=["confusion"])
    with pytest.raises(InputError, match="'umap'; available: 'confusion', 'confidence'"):
        cf.pl.annotation(annotated, panels="umap")
    with pytest.raises(InputError, match="panels= is empty; choose from 'confusion', 'confidence'"):
        cf.pl.annotation(annotated, panels=[])
    with pytest.raises(InputError, match="one panel, not 2"):
        cf.pl.annotation(annotated, labels_key="label", ax=plt.gca())
    del annotated.obs["cellfm_confidence"]
    with pytest.raises(MissingKeyError, match=r"'cellfm_confidence'.*cf\.tl\.annotate"):
        cf.pl.annotation(annotated)
