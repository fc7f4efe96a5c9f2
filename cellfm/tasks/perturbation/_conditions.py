"""Read the conditions of a table: which genes are perturbed in which cells."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.obs import missing_values, tell_missing
from cellfm.errors import InputError, MissingKeyError
from cellfm.io.logging import logger
from cellfm.io.messages import counted, warn
from cellfm.tasks.perturbation._labels import (
    CONTROL,
    CONTROL_WORDS,
    MAX_GENES,
    Condition,
    LabelRule,
    Reading,
    apply_rule,
    is_control_word,
    read_label,
)

__all__ = ["CONTROL", "MAX_GENES", "Condition", "Conditions", "condition_column", "name_of", "read_conditions"]

FEW_CELLS = 10
"""Minimum number of cells per condition without a warning."""
GUIDES = "gdo"
"""The table of guides of a MuData."""
_SHOWN = 20


@dataclass(frozen=True)
class Conditions:
    """The conditions of a table, control first, then in the order of their names."""

    conditions: tuple[Condition, ...]
    codes: np.ndarray
    """(n_cells,) int: place of each cell's condition; -1 for cells without label."""

    def cells(self, place: int) -> np.ndarray:
        """Cells of a condition, by number."""
        return np.flatnonzero(self.codes == place)

    @property
    def perturbed(self) -> tuple[Condition, ...]:
        """All but control."""
        return self.conditions[1:]

    @property
    def genes(self) -> list[str]:
        """Perturbed genes, sorted."""
        return sorted({gene for condition in self.conditions for gene in condition})


def name_of(condition: Condition) -> str:
    """``A``, ``A+B`` or ``ctrl``."""
    return "+".join(condition) or "ctrl"


def parse_all(labels: Iterable[str], *, known: Collection[str]) -> list[Condition]:
    """Conditions of labels such as ``A`` and ``A+B``, with one message for all that cannot be read; see `read_label`.

    Raises
    ------
    InputError
        Some labels name more than two genes, or have an empty part; they are listed.
    """
    return [reading.genes for reading in _read_all(labels, known, frozenset())]


def read_conditions(
    data: AnnData | MuData,
    adata: AnnData,
    key: str,
    *,
    known: Collection[str],
    control: Collection[str] | str | float | None = None,
    parse_labels: LabelRule | None = None,
    others: bool = False,
) -> Conditions:
    """Conditions of the cells of `adata`, from its `obs`, or from those of the MuData or its table of guides.

    Parameters
    ----------
    known
        Names of genes, by which labels are read; see `read_label`.
    control
        Labels of control, in place of the usual words.
    parse_labels
        The user's rule for labels.
    others
        Use labels that name no known gene as they are, with a warning.

    Raises
    ------
    MissingKeyError
        There is no such column; the message lists the columns.
    InputError
        No control cells (the labels are listed), no perturbed ones, or labels that cannot be read or name no known
        gene, which are listed.
    """
    column = condition_column(data, adata, key)
    missing = missing_values(column)
    labels = pd.Series(np.where(missing, "", _texts(column)), index=column.index)
    sizes = labels[~missing].value_counts().sort_index()
    controls = _control_labels(control)
    readings = _readings(sizes, known, controls, parse_labels, key, others=others)
    _require_control(readings, sizes, key, control)
    conditions = tuple(sorted({reading.genes for reading in readings.values()}))
    if len(conditions) == 1:
        raise InputError(f"obs[{key!r}] has control cells only ({_some(sizes.index)}); expected perturbed ones too.")
    place = {condition: i for i, condition in enumerate(conditions)}
    place_of = {label: place[reading.genes] for label, reading in readings.items()}
    codes = np.array(labels.map(place_of).fillna(-1), int)
    codes[missing] = -1
    if missing.any():
        warn(f"{tell_missing(column, key, 'label')}: left out.")
    _report(readings, sizes, key)
    n_cells = np.bincount(codes[codes >= 0], minlength=len(conditions))
    few = [f"{name_of(c)} ({n})" for c, n in zip(conditions, n_cells, strict=True) if n < FEW_CELLS]
    if few:
        have = counted(len(few), "condition has", "conditions have")
        warn(f"{have} fewer than {FEW_CELLS} cells, which is too few for reliable means: {_some(few)}.")
    return Conditions(conditions, codes)


def _readings(
    sizes: pd.Series,
    known: Collection[str],
    control: frozenset[str] | None,
    rule: LabelRule | None,
    key: str,
    *,
    others: bool,
) -> dict[str, Reading]:
    """The meaning of each label, without labels whose cells are left out."""
    by_rule = {label: False if rule is None else apply_rule(rule, label, control or ()) for label in sizes.index}
    left_out = [label for label, reading in by_rule.items() if reading is None]
    found = {label: reading for label, reading in by_rule.items() if isinstance(reading, Reading)}
    rest = [label for label, reading in by_rule.items() if reading is False]
    if control is not None:  # the user's words are all that control is called
        beside = [label for label in rest if label not in control | set(known) and is_control_word(label)]
        if beside and control & set(sizes.index):
            warn(
                f"{_counted(beside, sizes)} in obs[{key!r}] look like control, but are not in control=; "
                "they are left out."
            )
            rest = [label for label in rest if label not in beside]
    found |= dict(zip(rest, _read_all(rest, known, control or frozenset()), strict=True))
    if rule is not None and left_out:
        logger.info("%s in obs[%r] are left out, as parse_labels= says.", _counted(left_out, sizes), key)
    unmatched = [label for label in rest if found[label].unknown]
    if unmatched and not others:
        raise InputError(_unmatched(unmatched, sizes, found, key))
    if unmatched:
        warn(
            f"{_counted(unmatched, sizes)} in obs[{key!r}] have names of no known gene, and are used as "
            "perturbation names. parse_labels= can read them differently."
        )
    return found


def _unmatched(labels: list[str], sizes: pd.Series, found: dict[str, Reading], key: str) -> str:
    names = sorted({name for label in labels for name in found[label].unknown})
    shown = _some([f"{label!r} ({sizes[label]:,})" for label in labels])
    return (
        f"No information on {counted(len(names), 'perturbed gene')}: {_some(names)}. They are neither measured "
        "nor in the model nor in the gene sets. "
        f"{counted(len(labels), 'label')} of obs[{key!r}] (cells): {shown}. Use approved "
        "symbols (hgnc= maps old ones); pass parse_labels= with the genes of these labels, such as {label: 'A+B'}, "
        "{label: None} to leave the cells out, or the separator of two genes; control= for labels of control; or "
        "perturbation='learned' to take them as they are."
    )


def _require_control(readings: dict[str, Reading], sizes: pd.Series, key: str, control: object) -> None:
    if any(reading.genes == CONTROL for reading in readings.values()):
        return
    if control is None:
        why = f"no label is a usual word for control, such as {', '.join(map(repr, CONTROL_WORDS))}"
    else:
        why = f"control={control!r} is none of its labels (labels are compared as text)"
    raise InputError(
        f"No control cells in obs[{key!r}]: {why}. Pass control= with one or more of its labels: {_some(sizes.index)}."
    )


def _report(readings: dict[str, Reading], sizes: pd.Series, key: str) -> None:
    """Log which labels are control, and which guides are pooled."""
    controls = [label for label, reading in readings.items() if reading.genes == CONTROL]
    logger.info("control cells by obs[%r]: %s.", key, _counted(controls, sizes))
    of_gene: dict[Condition, list[str]] = {}
    for label, reading in readings.items():
        if reading.guide and reading.genes:
            of_gene.setdefault(reading.genes, []).append(label)
    if of_gene:
        shown = _some([f"{name_of(genes)} ({', '.join(labels)})" for genes, labels in of_gene.items()])
        pooled = [label for labels in of_gene.values() for label in labels]
        logger.info(
            "%s in obs[%r] name guides or ways of perturbing, and are pooled into %s: %s.",
            _counted(pooled, sizes, names=False),
            key,
            counted(len(of_gene), "condition"),
            shown,
        )


def _read_all(labels: Iterable[str], known: Collection[str], control: Collection[str]) -> list[Reading]:
    found, broken = [], []
    for label in labels:
        try:
            found.append(read_label(str(label), known, control))
        except InputError:
            broken.append(str(label))
    if broken:
        raise InputError(
            f"{counted(len(broken), 'condition names', 'conditions name')} no one or two genes: {_some(broken)}. "
            "Expected 'ctrl', 'A', 'A+ctrl', 'A+B' or 'A_B'; pass "
            "parse_labels={label: 'A+B'}, or {label: None} to leave out cells of other conditions."
        )
    return found


def _texts(column: pd.Series) -> np.ndarray:
    """Labels as text without spaces around them; whole numbers without the point that missing ones bring."""

    def text(value: object) -> str:
        whole = isinstance(value, float) and value.is_integer()
        return str(int(value) if whole else value).strip()  # type: ignore[call-overload]

    names = {value: text(value) for value in column.dropna().unique()}
    return np.array([names.get(value, "") for value in column], object)


def _control_labels(control: Collection[str] | str | float | None) -> frozenset[str] | None:
    if control is None:
        return None
    several = isinstance(control, Collection) and not isinstance(control, str)
    return frozenset(_texts(pd.Series(list(control) if several else [control], dtype=object)))  # type: ignore[arg-type]


def _counted(labels: list[str], sizes: pd.Series, *, names: bool = True) -> str:
    """``48 cells of 2 labels ('A', 'B')``."""
    shown = f" ({_some(map(repr, labels))})" if names else ""
    return f"{counted(int(sizes[labels].sum()), 'cell')} of {counted(len(labels), 'label')}{shown}"


def condition_column(data: AnnData | MuData, adata: AnnData, key: str) -> pd.Series:
    """A column of `obs` for the cells of `adata`, from the table itself, the MuData, or its guides.

    Raises
    ------
    MissingKeyError
        There is none; the columns are listed.
    """
    tables = {"obs": adata.obs}
    if isinstance(data, MuData):
        tables["the obs of the MuData"] = data.obs
        if GUIDES in data.mod:
            tables[f"the obs of {GUIDES!r}"] = data.mod[GUIDES].obs
    for table in tables.values():
        if key in table:
            return table[key].reindex(adata.obs_names)
    available = "; ".join(f"{where} has {', '.join(map(str, table)) or 'none'}" for where, table in tables.items())
    raise MissingKeyError(f"No column {key!r} with conditions: {available}.")


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
