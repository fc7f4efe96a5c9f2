"""Splits: no cell is on both sides, classes are spread evenly, and what cannot be split is refused."""

import numpy as np
import pytest

from cellfm.errors import DataWarning, InputError
from cellfm.tasks.annotation._split import given_folds, leave_one_out_folds, random_folds

LABELS = np.repeat(["A", "B", "C"], [40, 13, 3])


def shuffled(values: np.ndarray) -> np.ndarray:
    return np.random.default_rng(1).permutation(values)


def test_every_cell_is_tested_once_and_never_while_it_trains():
    folds = random_folds(shuffled(LABELS), 5)
    np.testing.assert_array_equal(np.sort(np.concatenate([fold.test for fold in folds])), np.arange(len(LABELS)))
    for fold in folds:
        np.testing.assert_array_equal(np.sort(np.concatenate([fold.train, fold.test])), np.arange(len(LABELS)))


def test_random_folds_have_the_same_share_of_each_class_and_the_same_size():
    labels = shuffled(LABELS)
    folds = random_folds(labels, 5)
    for name, size in zip(*np.unique(labels, return_counts=True), strict=True):
        assert {(labels[fold.test] == name).sum() for fold in folds} <= {size // 5, -(-size // 5)}
    sizes = [len(fold.test) for fold in folds]
    assert max(sizes) - min(sizes) <= 1


def test_the_seed_alone_decides():
    first, again, other = (random_folds(LABELS, 3, random_state=seed)[0].test for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_random_folds_refuse_classes_that_could_not_be_learnt():
    with pytest.raises(InputError, match=r"'D' \(2\)"):
        random_folds(np.repeat(["A", "D"], [10, 2]), 5)
    with pytest.raises(InputError, match="n_folds must be 2 or more"):
        random_folds(LABELS, 1)


def test_a_batch_is_tested_on_the_classes_that_the_others_teach():
    labels = np.repeat(["A", "B", "rare", "only there", "A", "B", "rare", "only here"], [20, 20, 10, 20, 5, 5, 5, 5])
    batches = np.repeat(["x", "y"], [70, 20])
    with pytest.warns(DataWarning, match="1 of 2 batches is no test.*'x'"):  # y has too few cells to learn from
        (fold,) = leave_one_out_folds(labels, batches)
    assert fold.name == "y"
    assert set(batches[fold.test]) == {"y"}
    assert set(batches[fold.train]) == {"x"}
    # "rare" has not more than ten training cells, the others occur on one side only
    assert set(labels[fold.train]) == set(labels[fold.test]) == {"A", "B"}
    assert (len(fold.train), len(fold.test)) == (40, 10)


def test_eleven_training_cells_are_enough():
    labels = np.repeat(["A", "B", "A", "B"], [11, 11, 11, 11])
    batches = np.repeat(["x", "y"], 22)
    assert [fold.name for fold in leave_one_out_folds(labels, batches)] == ["x", "y"]


def test_what_has_no_batch_to_leave_out_is_refused():
    with pytest.raises(InputError, match="at least two batches, found only 'x'"):
        leave_one_out_folds(LABELS, np.full(len(LABELS), "x"))
    with pytest.raises(InputError, match="No batch can be left out"):
        leave_one_out_folds(np.repeat(["A", "B"], 30), np.repeat(["x", "y"], 30))  # a class a batch


def test_a_column_of_train_and_test_is_one_fold():
    values = np.where(np.arange(len(LABELS)) % 3 == 0, "test", "train")
    (fold,) = given_folds(LABELS, values)
    np.testing.assert_array_equal(fold.test, np.flatnonzero(values == "test"))
    np.testing.assert_array_equal(fold.train, np.flatnonzero(values == "train"))
    values[:4] = "validation"
    with pytest.warns(DataWarning, match="4 cells are neither"):
        (fold,) = given_folds(LABELS, values)
    assert not np.isin(np.arange(4), np.concatenate([fold.train, fold.test])).any()


def test_any_other_column_is_tested_value_by_value():
    values = (np.arange(len(LABELS)) % 4).astype(str)
    folds = given_folds(LABELS, values)
    assert [fold.name for fold in folds] == ["0", "1", "2", "3"]
    for fold in folds:
        assert set(values[fold.test]) == {fold.name}


def test_a_column_that_shares_no_two_classes_is_refused():
    with pytest.raises(InputError, match="no two classes"):
        given_folds(np.repeat(["A", "B"], 10), np.repeat(["train", "test"], 10))
