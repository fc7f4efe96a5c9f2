"""Split cells into training and test: random folds, each batch left out in turn, or a given split."""

from dataclasses import dataclass

import numpy as np

from cellfm.errors import InputError
from cellfm.io.messages import counted, counted_of, warn

MIN_TRAIN = 2
"""Minimum number of training cells of a class, one of them for validation."""
MIN_TRAIN_OF_BATCHES = 11
"""The same when batches are left out: more than 10 training cells (Zeng 2025, Methods)."""


@dataclass(frozen=True)
class Fold:
    """One split of the cells; cells in neither part are left out."""

    name: str
    """Number of a random fold, or the batch or value that is tested."""
    train: np.ndarray
    """(n_train,) int64: numbers of cells, ascending."""
    test: np.ndarray
    """(n_test,) int64: numbers of other cells, ascending."""


def random_folds(labels: np.ndarray, n_folds: int = 5, *, random_state: int = 0) -> list[Fold]:
    """Stratified folds: each cell is tested once, and the cells of each class are divided evenly among the folds.

    Parameters
    ----------
    labels
        (n_cells,) str.
    n_folds
        Number of folds; 2 or more.

    Raises
    ------
    InputError
        There are fewer than two folds, or a class is too small for training in every fold.
    """
    if n_folds < 2:
        raise InputError(f"n_folds must be 2 or more, not {n_folds}.")
    classes, codes = np.unique(labels, return_inverse=True)
    sizes = np.bincount(codes)
    too_small = [
        f"{str(name)!r} ({size})" for name, size in zip(classes, sizes, strict=True) if _left(size, n_folds) < MIN_TRAIN
    ]
    if too_small:
        raise InputError(
            f"Too few cells for {n_folds} random folds, which need {MIN_TRAIN} training cells of each class: "
            f"{', '.join(too_small)}. Remove these cells, merge the classes with others, or pass another n_folds=."
        )
    generator = np.random.default_rng(random_state)
    order = np.lexsort((generator.random(len(codes)), codes))  # by class, shuffled within it
    of_fold = np.empty(len(codes), np.int64)
    of_fold[order] = np.arange(len(codes)) % n_folds  # dealt round across classes, so that folds have equal sizes
    return [Fold(str(i + 1), np.flatnonzero(of_fold != i), np.flatnonzero(of_fold == i)) for i in range(n_folds)]


def leave_one_out_folds(labels: np.ndarray, groups: np.ndarray, *, min_train: int = MIN_TRAIN_OF_BATCHES) -> list[Fold]:
    """Test each group of cells in turn, with all others for training.

    A fold has the classes that occur in the test and have at least `min_train` training cells. Groups with fewer than
    two such classes are not tested, and a warning names them.

    Parameters
    ----------
    labels
        (n_cells,) str.
    groups
        (n_cells,) str: batches, donors, or the folds of the user's split.

    Raises
    ------
    InputError
        There is only one group, or none can be tested.
    """
    names = np.unique(groups)
    if len(names) < 2:
        raise InputError(f"Leaving one batch out needs at least two batches, found only {str(names[0])!r}.")
    folds, skipped = [], []
    for name in names:
        fold = _part(labels, groups != name, groups == name, str(name), min_train)
        if fold is None:
            skipped.append(repr(str(name)))
        else:
            folds.append(fold)
    if not folds:
        raise InputError(
            f"No batch can be left out: none has two classes with {min_train} cells or more in the others. "
            "Use split='random'."
        )
    if skipped:
        warn(
            f"{counted_of(len(skipped), len(names), 'batch')} no test, as fewer than two of their classes have "
            f"{min_train} cells or more in the others: {', '.join(skipped)}."
        )
    return folds


def given_folds(labels: np.ndarray, values: np.ndarray) -> list[Fold]:
    """The split of a column: one fold if it has ``"train"`` and ``"test"``, otherwise each value in turn.

    Parameters
    ----------
    labels
        (n_cells,) str.
    values
        (n_cells,) str.

    Raises
    ------
    InputError
        The column yields no fold.
    """
    if not {"train", "test"} <= set(values):
        return leave_one_out_folds(labels, values, min_train=MIN_TRAIN)
    train, test = values == "train", values == "test"
    if n_other := int((~train & ~test).sum()):
        warn(f"{counted(n_other, 'cell is', 'cells are')} neither 'train' nor 'test' and left out.")
    fold = _part(labels, train, test, "test", MIN_TRAIN)
    if fold is None:
        raise InputError(
            f"The split has no two classes with a cell or more in 'test' and {MIN_TRAIN} or more in 'train'."
        )
    return [fold]


def without_label(labels: np.ndarray, fold: Fold, label: str, *, with_its_training_cells: bool) -> Fold | None:
    """A fold whose training part lacks a label; None if nothing is left to compare.

    Parameters
    ----------
    with_its_training_cells
        Whether the training cells of the label are tested, too: true for random folds, false for batches.
    """
    of_label = labels == label
    train = fold.train[~of_label[fold.train]]
    test = np.union1d(fold.test, fold.train[of_label[fold.train]]) if with_its_training_cells else fold.test
    unknown = of_label[test]
    if len(np.unique(labels[train])) < 2 or unknown.all() or not unknown.any():
        return None
    return Fold(fold.name, train, test)


def _left(size: int, n_folds: int) -> int:
    """Number of training cells of a class, in the fold that tests most of its cells."""
    return size - -(-size // n_folds)


def _part(labels: np.ndarray, train: np.ndarray, test: np.ndarray, name: str, min_train: int) -> Fold | None:
    """The fold of the classes that both parts have; None for fewer than two."""
    known, counts = np.unique(labels[train], return_counts=True)
    shared = np.intersect1d(known[counts >= min_train], labels[test])
    if len(shared) < 2:
        return None
    kept = np.isin(labels, shared)
    return Fold(name, np.flatnonzero(train & kept), np.flatnonzero(test & kept))
