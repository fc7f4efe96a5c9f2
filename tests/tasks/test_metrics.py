"""Scores of labels and of rejection, against counting by hand."""

import numpy as np
import pandas as pd
import pytest

from cellfm.tasks.annotation._metrics import class_table, confusion_table, label_scores, rejection_scores

TRUTH = np.array(["A", "A", "A", "A", "B", "B", "C", "C"])
SAID = np.array(["A", "A", "A", "B", "B", "A", "C", "D"])


def f1(name: str) -> float:
    right = ((name == TRUTH) & (name == SAID)).sum()
    return 2 * right / ((name == TRUTH).sum() + (name == SAID).sum())


def test_scores_by_hand():
    scores = label_scores(TRUTH, SAID)
    assert scores["accuracy"] == 5 / 8
    assert scores["macro_f1"] == pytest.approx(np.mean([f1(name) for name in "ABCD"]))  # D is predicted, so it counts
    assert scores["weighted_f1"] == pytest.approx((4 * f1("A") + 2 * f1("B") + 2 * f1("C")) / 8)


def test_the_right_labels_score_one():
    assert set(label_scores(TRUTH, TRUTH).values()) == {1.0}


def test_table_by_class():
    table = class_table(TRUTH, SAID).set_index("label")
    assert list(table.index) == ["A", "B", "C"]
    assert table.loc["A", "precision"] == 3 / 4
    assert table.loc["C", "recall"] == 1 / 2
    np.testing.assert_allclose(table["f1"], [f1(name) for name in "ABC"])
    assert list(table["n_cells"]) == [4, 2, 2]


def test_confusion_counts_every_cell_once():
    table = confusion_table(TRUTH, SAID)
    expected = pd.crosstab(TRUTH, SAID)
    np.testing.assert_array_equal(table.loc[expected.index, expected.columns], expected)
    assert table.to_numpy().sum() == len(TRUTH)
    assert list(table.index) == list(table.columns) == ["A", "B", "C", "D"]


UNKNOWN = np.array([True, True, False, False, False])


def test_rejection_is_a_ranking():
    confidence = np.array([0.2, 0.9, 0.8, 0.95, 0.99])
    distance = np.array([0.1, 0.8, 0.2, 0.2, 0.3])
    scores = rejection_scores(UNKNOWN, confidence, distance, confidence_threshold=0.5, distance_threshold=0.4)
    assert scores["auroc_confidence"] == pytest.approx(5 / 6)  # of 6 pairs, only 0.9 against 0.8 is the wrong way
    assert scores["auroc_distance"] == pytest.approx(3 / 6)
    assert scores["auroc_both"] == 1.0  # one is not confident, the other far away
    assert (scores["unknown_rejected"], scores["known_rejected"]) == (1.0, 0.0)


def test_both_is_above_one_exactly_where_a_cell_is_rejected():
    generator = np.random.default_rng(0)
    confidence, distance = generator.random(200), generator.random(200)
    rejected = (confidence < 0.6) | (distance > 0.7)
    scores = rejection_scores(rejected, confidence, distance, confidence_threshold=0.6, distance_threshold=0.7)
    assert scores["auroc_both"] == scores["unknown_rejected"] == 1.0
    assert scores["known_rejected"] == 0.0


def test_thresholds_that_reject_nothing_divide_by_nothing():
    confidence, distance = np.full(5, 0.5), np.arange(5.0)
    scores = rejection_scores(UNKNOWN, confidence, distance, confidence_threshold=1.0, distance_threshold=np.inf)
    assert scores["known_rejected"] == 1.0
    assert np.isfinite(list(scores.values())).all()
    assert set(rejection_scores(UNKNOWN, confidence)) == {"auroc_confidence"}
