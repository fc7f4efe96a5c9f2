"""Which cells train and which test: random folds, one batch left out in turn, or a split that is given."""

from dataclasses import dataclass

import numpy as np

from cellfm.errors import InputError
from cellfm.io.messages import counted, counted_of, warn

MIN_TRAIN = 2
"""Cells of a class that training needs, one of them for validation."""
MIN_TRAIN_OF_BATCHES = 11
"""The same where a batch is left out: classes with more than 10 training cells (Zeng 2025, Methods)."""


@dataclass(frozen=True)
class Fold:
    """One way to part the cells; cells in neither part are left out."""

    name: str
    """Number of a random fold, or the batch or value that is the test."""
    train: np.ndarray
    """(n_train,) int64: numbers of cells, ascending."""
    test: np.ndarray
    """(n_test,) int64: numbers of other cells, ascending."""


def random_folds(labels: np.ndarray, n_folds: int = 5, *, random_state: int = 0) -> list[Fold]:
    """Stratified folds: each cell is tested once, and each class is spread as evenly as its size allows.

    Parameters
    ----------
    labels
        (n_cells,) str.
    n_folds
        How many; 2 or more.

    Raises
    ------
    InputError
        Fewer than two folds, or a class too small to train on in every fold.
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
            f"Too few cells for {n_folds} random folds, which need {MIN_TRAIN} of each class left for training: "
            f"{', '.join(too_small)}. Remove these cells, merge the classes with others, or pass another n_folds=."
        )
    generator = np.random.default_rng(random_state)
    order = np.lexsort((generator.random(len(codes)), codes))  # by class, shuffled within it
    of_fold = np.empty(len(codes), np.int64)
    of_fold[order] = np.arange(len(codes)) % n_folds  # dealt out on, so that folds have the same size too
    return [Fold(str(i + 1), np.flatnonzero(of_fold != i), np.flatnonzero(of_fold == i)) for i in range(n_folds)]


def leave_one_out_folds(labels: np.ndarray, groups: np.ndarray, *, min_train: int = MIN_TRAIN_OF_BATCHES) -> list[Fold]:
    """Each group of cells in turn is the test, all others the training part.

    A fold holds the classes with at least `min_train` training cells that also occur in the test. Groups that leave
    fewer than two such classes are no test, and a warning names them.

    Parameters
    ----------
    labels
        (n_cells,) str.
    groups
        (n_cells,) str: batches, donors, or the folds of a split of the user's own.

    Raises
    ------
    InputError
        One group only, or none that can be a test.
    """
    names = np.unique(groups)
    if len(names) < 2:
        raise InputError(f"Leaving one batch out needs at least two, found only {str(names[0])!r}.")
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
    """The split of a column: one fold where it says ``"train"`` and ``"test"``, else each value in turn is the test.

    Parameters
    ----------
    labels
        (n_cells,) str.
    values
        (n_cells,) str.

    Raises
    ------
    InputError
        The column makes no fold.
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
    """A fold whose training part lacks a label; None where nothing is left to compare.

    Parameters
    ----------
    with_its_training_cells
        Whether these become test cells: yes where the parts are random, no where they are batches.
    """
    of_label = labels == label
    train = fold.train[~of_label[fold.train]]
    test = np.union1d(fold.test, fold.train[of_label[fold.train]]) if with_its_training_cells else fold.test
    unknown = of_label[test]
    if len(np.unique(labels[train])) < 2 or unknown.all() or not unknown.any():
        return None
    return Fold(fold.name, train, test)


def _left(size: int, n_folds: int) -> int:
    """Cells of a class that train in the fold that tests most of them."""
    return size - -(-size // n_folds)


def _part(labels: np.ndarray, train: np.ndarray, test: np.ndarray, name: str, min_train: int) -> Fold | None:
    """The fold of the classes that both parts know; None where there are not two."""
    known, counts = np.unique(labels[train], return_counts=True)
    shared = np.intersect1d(known[counts >= min_train], labels[test])
    if len(shared) < 2:
        return None
    kept = np.isin(labels, shared)
    return Fold(name, np.flatnonzero(train & kept), np.flatnonzero(test & kept))
