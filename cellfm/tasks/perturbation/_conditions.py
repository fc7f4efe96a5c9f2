"""Names of perturbed conditions, in the spellings of GEARS and scPerturb, and the cells that have them."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm._adata import warn
from cellfm.errors import InputError, MissingKeyError

Condition = tuple[str, ...]
"""Perturbed genes, sorted; none for control."""

CONTROL: Condition = ()
CONTROL_WORDS = frozenset({"ctrl", "control", "non-targeting"})
"""What control is called, in any case."""
MOST_GENES = 2
"""Genes perturbed at once."""
FEW_CELLS = 10
"""A condition with fewer cells is warned of: its mean says little."""
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


def parse_condition(label: str, *, control: str | None = None, genes: Collection[str] = ()) -> Condition:
    """Perturbed genes of a label: ``A``, ``A+B``, ``A_B``, ``A+ctrl``, ``ctrl+A``; none for ``ctrl`` and ``control``.

    Parameters
    ----------
    control
        What control is called here, beside the usual words.
    genes
        Names that are whole even if they hold an underscore.

    Raises
    ------
    InputError
        The label names more than two genes, or has an empty part.
    """
    label = str(label).strip()
    if label == control:
        return CONTROL
    if "+" in label:
        parts = label.split("+")
    elif label in genes:
        parts = [label]
    else:
        parts = label.split("_")
    parts = [part.strip() for part in parts]
    found = {part for part in parts if part.lower() not in CONTROL_WORDS and part != control}
    if not all(parts) or len(found) > MOST_GENES:
        raise InputError(
            f"The condition {label!r} names no one or two genes. Expected control ('ctrl', 'control' or control=), "
            "'A', 'A+ctrl', 'A+B' or 'A_B'."
        )
    return tuple(sorted(found))


def parse_all(labels: Iterable[str], *, control: str | None = None, genes: Collection[str] = ()) -> list[Condition]:
    """`parse_condition` for many, with one message for all that cannot be read.

    Raises
    ------
    InputError
        Some labels cannot be read; they are listed.
    """
    found, broken = [], []
    for label in labels:
        try:
            found.append(parse_condition(label, control=control, genes=genes))
        except InputError:
            broken.append(str(label))
    if broken:
        raise InputError(
            f"{len(broken)} conditions name no one or two genes: {_some(broken)}. Expected 'ctrl', 'A', 'A+ctrl', "
            "'A+B' or 'A_B'; leave out cells of other conditions."
        )
    return found


def read_conditions(
    data: AnnData | MuData, adata: AnnData, key: str, *, control: str | None = None, genes: Collection[str] = ()
) -> Conditions:
    """Conditions of the cells of `adata`, from its `obs`, or from those of the MuData or its table of guides.

    Raises
    ------
    MissingKeyError
        No such column; the columns are listed.
    InputError
        No control cells (the labels are listed), no perturbed ones, or labels that cannot be read.
    """
    column = condition_column(data, adata, key)
    missing = column.isna() | column.astype(str).str.strip().isin(["", "nan", "None"])
    labels = column[~missing].astype(str).str.strip()
    distinct = sorted(labels.unique())
    parsed = dict(zip(distinct, parse_all(distinct, control=control, genes=genes), strict=True))
    conditions = tuple(sorted(set(parsed.values())))
    if CONTROL not in conditions:
        named = "" if control is None else f" {control!r},"
        raise InputError(
            f"No control cells in obs[{key!r}]: none is called{named} 'ctrl' or 'control'. Pass control= with one of "
            f"its labels: {_some(distinct)}."
        )
    if len(conditions) == 1:
        raise InputError(f"obs[{key!r}] has control cells only ({_some(distinct)}); expected perturbed ones too.")
    place = {condition: i for i, condition in enumerate(conditions)}
    codes = np.full(len(column), -1)
    codes[~missing.to_numpy()] = [place[parsed[label]] for label in labels]
    if n_missing := int(missing.sum()):
        warn(f"{n_missing:,} of {len(column):,} cells have no label in obs[{key!r}] and are left out.")
    sizes = np.bincount(codes[codes >= 0], minlength=len(conditions))
    few = [f"{name_of(c)} ({n})" for c, n in zip(conditions, sizes, strict=True) if n < FEW_CELLS]
    if few:
        warn(f"{len(few)} conditions have fewer than {FEW_CELLS} cells, and means over them say little: {_some(few)}.")
    return Conditions(conditions, codes)


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
    there = "; ".join(f"{where} has {', '.join(map(str, table)) or 'none'}" for where, table in tables.items())
    raise MissingKeyError(f"No column {key!r} with conditions: {there}.")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
