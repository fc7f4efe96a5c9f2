"""`cf.pl.benchmark`: every score is in the figure, bars are as long as the score, the best is in bold."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

import cellfm as cf
from cellfm.errors import InputError


@pytest.fixture
def scores() -> pd.DataFrame:
    columns = ["Leiden NMI", "iLISI", "PCR comparison", "AvgBio", "Bio conservation", "Batch correction", "Total"]
    numbers = [[0.71, 0.02, 0.0, 0.61, 0.75, 0.31, 0.55], [0.83, 0.44, 0.62, 0.73, 0.82, 0.58, 0.7]]
    return pd.DataFrame(numbers, columns=columns, index=["X_pca", "X_cellfm_integrated"])


def test_all_scores_are_shown_with_the_best_in_bold(scores, tmp_path):
    axes = cf.pl.benchmark(scores, save=tmp_path / "table.png")
    shown = [text.get_text() for text in axes.texts]
    assert sorted(shown) == sorted(f"{score:.2f}" for score in scores.to_numpy().ravel())
    bold = [text.get_text() for text in axes.texts if text.get_weight() == "bold"]
    assert sorted(bold) == sorted(f"{score:.2f}" for score in scores.iloc[1])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["X_pca", "X_cellfm_integrated"]
    bars = [patch.get_width() for patch in axes.patches if isinstance(patch, Rectangle)]
    aggregates = scores[["AvgBio", "Bio conservation", "Batch correction", "Total"]]
    np.testing.assert_allclose(sorted(bars), sorted(0.9 * aggregates.to_numpy().ravel()))
    assert (tmp_path / "table.png").stat().st_size > 10_000


def test_rows_are_sorted_on_request_and_drawn_on_given_axes(scores):
    _, axes = plt.subplots()
    assert cf.pl.benchmark(scores, sort_by="Total", ax=axes, show=False) is axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["X_cellfm_integrated", "X_pca"]


def test_other_tables_are_refused(scores):
    for other in (scores.drop(columns="AvgBio"), scores.iloc[:0], {"AvgBio": 1}):
        with pytest.raises(InputError, match=r"cf\.tl\.benchmark"):
            cf.pl.benchmark(other)
    with pytest.raises(InputError, match="No column 'Best'"):
        cf.pl.benchmark(scores, sort_by="Best")
