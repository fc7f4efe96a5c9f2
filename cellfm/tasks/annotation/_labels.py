"""Read labels of cells from a column of `obs`, and refuse labels that cannot be used for training."""

import numpy as np
from anndata import AnnData

from cellfm.cells.obs import read_column, read_complete_column, tell_missing
from cellfm.errors import InputError, InputTypeError
from cellfm.io.messages import warn
from cellfm.keys import UNKNOWN

UNKNOWN_COLOR = "#bdbdbd"


def read_labels(reference: AnnData, key: str) -> np.ndarray:
    """Labels to learn from, (n_obs,) str; None for cells without a label, with a warning that gives their number.

    Raises
    ------
    MissingKeyError
        There is no such column; the message lists the available ones.
    InputError
        No labels, one class only, a class of one cell, or a class that has the name of rejected cells.
    """
    labels = read_column(reference, key, "labels_key")
    known = np.array([label is not None for label in labels])
    if not known.any():
        raise InputError(f"obs[{key!r}] contains no labels: {tell_missing(reference.obs[key], key, 'label')}.")
    require_classes(labels[known].astype(str), key)
    if UNKNOWN in set(labels[known]):
        raise InputError(f"obs[{key!r}] has the label {UNKNOWN!r}, which cellfm gives to rejected cells; rename it.")
    if not known.all():
        warn(f"{tell_missing(reference.obs[key], key, 'label')}: left out.")
    return labels


def read_groups(reference: AnnData, key: str | None, labels: np.ndarray, method: str) -> np.ndarray | None:
    """Donors or batches of the cells for the cross-validation of ``method="auto"``, (n_obs,) str, empty for cells
    without a label; None without a key.

    Raises
    ------
    MissingKeyError
        There is no such column; the message lists the available ones.
    InputError
        The method is another one, values of labelled cells are missing, or these cells are of one group.
    """
    if key is None:
        return None
    if method != "auto":
        raise InputError(
            f"groups_key={key!r} is for the cross-validation of method='auto'; with method={method!r} leave it out."
        )
    if not isinstance(key, str):
        raise InputTypeError(f"groups_key must be the name of a column of obs, not {type(key).__name__}.")
    labelled = np.array([label is not None for label in labels])
    groups = np.full(len(labels), "", object)
    groups[labelled] = read_complete_column(reference[labelled], key, "groups_key")
    known = np.unique(groups[labelled].astype(str))
    if len(known) < 2:
        raise InputError(
            f"All labelled cells have the same value in obs[{key!r}] ({str(known[0])!r}); groups_key= needs two groups "
            "or more. Leave it out for random folds."
        )
    return groups.astype(str)


def require_classes(labels: np.ndarray, key: str) -> None:
    """Refuse labels to which no classifier can be fitted.

    Raises
    ------
    InputError
        Fewer than two classes, or classes with a single cell.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    if not len(classes):
        raise InputError(f"No cell with a label in obs[{key!r}] expresses a gene that is used.")
    if len(classes) < 2:
        raise InputError(f"obs[{key!r}] has only one class ({str(classes[0])!r}); two or more are needed.")
    if len(lone := classes[sizes < 2]):
        names = ", ".join(repr(str(name)) for name in lone)
        raise InputError(
            f"Classes of obs[{key!r}] with a single cell: {names}. A class needs two cells or more: remove these "
            "cells or merge them with another class."
        )


def label_colors(reference: AnnData, labels_key: str, classes: list[str]) -> list[str]:
    """A colour for each class: the reference's colours if it has one for every category, otherwise scanpy's."""
    column = reference.obs[labels_key]
    stored = list(reference.uns.get(f"{labels_key}_colors", ()))
    if column.dtype == "category" and len(stored) == len(column.cat.categories):
        of_label = dict(zip(column.cat.categories.astype(str), map(str, stored), strict=True))
        return [of_label[name] for name in classes]
    from scanpy.plotting import palettes  # slow to import

    fitting = (p for p in (palettes.default_20, palettes.default_28, palettes.default_102) if len(p) >= len(classes))
    palette = next(fitting, palettes.default_102)
    return [palette[i % len(palette)] for i in range(len(classes))]
