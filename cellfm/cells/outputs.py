"""Write results to AnnData: check keys, write all or nothing, and keep records of runs in ``uns["cellfm"]``."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeGuard

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.select import copied, select
from cellfm.cells.storable import name_problem
from cellfm.errors import InputError
from cellfm.io.arguments import current_call
from cellfm.io.defer_interrupt import defer_interrupt
from cellfm.io.messages import warn
from cellfm.keys import RUN

Fact = str | float | bool | np.ndarray | pd.DataFrame | None

_TABLES = ("obs", "var")
_FOREIGN = f"{RUN}_foreign"


def require_keys(adata: AnnData, argument: str, **slots: str | list[str]) -> None:
    """Check, before any work, that .h5ad and .zarr can store the keys that a tool will write.

    Parameters
    ----------
    adata
        Table to write to. The user is warned if a key exists that does not come from cellfm.
    argument
        Name of the argument with the key: ``key_added``.
    slots
        The key, or a list of keys, by slot, as in ``obsm="X_cellfm"``.

    Raises
    ------
    InputError
        A key is not text, is empty, has a slash, or is reserved in a file.
    """
    for slot, keys in slots.items():
        for key in keys if isinstance(keys, list) else [keys]:
            require_key(key, argument, table=slot in _TABLES)
            if slot == "uns" and key == RUN:
                raise InputError(
                    f"{argument}={key!r} is where cellfm stores the records of its runs: choose another key."
                )
            if slot == "layers" and key in ("X", "raw"):
                raise InputError(f"{argument}={key!r} has another meaning for layer=: choose another key.")
            if slot in _TABLES and key == getattr(adata, slot).index.name:
                raise InputError(
                    f"{argument}={key!r} is the name of the index of {slot}, which files store under this "
                    "name: choose another key."
                )
            if key in getattr(adata, slot) and not _is_ours(adata, slot, key):
                warn(f"{slot}[{key!r}] exists already and is not a result of cellfm; it is replaced.")


def require_key(key: object, argument: str, *, table: bool = False) -> None:
    """Check one key, of a `table` or of anything else.

    Raises
    ------
    InputError
        It cannot be written or read again.
    """
    if problem := name_problem(key, table=table):
        raise InputError(f"{argument}={key!r} {problem}, so files (.h5ad, .zarr) cannot store it: choose another key.")


def as_keys(names: Iterable[str]) -> list[str]:
    """Names of groups as parts of keys: slashes become bars, and names that become equal get a number.

    Examples
    --------
    >>> from cellfm.cells.outputs import as_keys
    >>> as_keys(["CD4/CD8", "CD4|CD8", "B"])
    ['CD4|CD8', 'CD4|CD8_2', 'B']
    """
    found: list[str] = []
    for name in names:
        key = start = name.translate({ord(char): "|" for char in "/\\\0"})
        n = 1
        while key in found:
            key, n = f"{start}_{n + 1}", n + 1
        found.append(key)
    return found


@dataclass(frozen=True)
class Output:
    """Where a tool writes."""

    data: AnnData | MuData
    """The user's data, or a copy."""
    adata: AnnData
    """The table in it."""
    returned: AnnData | MuData | None
    """The return value of the tool: the copy, if requested."""

    def write(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Write values by slot and key, as in ``{"obsm": {"X_cellfm": embedding}}``."""
        for slot, values in results.items():
            for key, value in values.items():
                getattr(self.adata, slot)[key] = value

    def record(self, key: str, slot: str = "uns", unused_options: Collection[str] = (), /, **facts: Fact) -> None:
        """Keep the facts of the run; see `record_run`."""
        record_run(self.adata, key, slot, unused_options, **facts)


@contextmanager
def writing(data: AnnData | MuData, *, modality: str, copy: bool) -> Iterator[Output]:
    """The block in which a tool writes its results, all or nothing: to `data`, or to a copy."""
    result = copied(data) if copy else data
    with defer_interrupt():
        yield Output(result, select(result, modality), result if copy else None)


def record_run(
    adata: AnnData, key: str, slot: str = "uns", unused_options: Collection[str] = (), /, **facts: Fact
) -> None:
    """Keep the facts of a run in ``uns["cellfm"][key]``; None is left out, because h5ad cannot hold it.

    If that is the record of a result with the same key in another slot, the record goes to ``"<key> (<slot>)"``. An
    existing entry that does not come from cellfm is moved to ``uns["cellfm_foreign"]``, with a warning.

    Parameters
    ----------
    slot
        Where the result is: ``"obsm"``, ``"varm"`` and so on.
    unused_options
        Options of the tool that played no part in this run.
    """
    with defer_interrupt():
        runs = adata.uns.get(RUN, {})
        if not isinstance(runs, Mapping):
            _set_aside(adata, runs, f"uns[{RUN!r}]")
            runs = {}
        elif key in runs and not is_record(runs[key]):
            _set_aside(adata, {key: runs[key]}, f"uns[{RUN!r}][{key!r}]")
        elif key in runs and runs[key].get("slot", slot) != slot:
            key = f"{key} ({slot})"
        number = 1 + max((int(record.get("run", 0)) for record in runs.values() if is_record(record)), default=0)
        kept = {name: _plain(fact) for name, fact in facts.items() if fact is not None}
        first = {"cellfm_version": version("cellfm"), "run": number, "slot": slot}
        call = current_call()
        for name in unused_options:
            call.get("options", {}).pop(name, None)
        adata.uns[RUN] = dict(runs) | {key: first | call | kept}


def run_record(adata: AnnData, key: str, slot: str | None = None) -> Mapping[str, Any]:
    """The facts of the run that wrote a key, of a slot or of any; empty if there is no record of cellfm."""
    runs = adata.uns.get(RUN)
    for name in (f"{key} ({slot})", key):
        record = runs.get(name) if isinstance(runs, Mapping) else None
        if isinstance(record, Mapping) and (slot is None or record.get("slot", slot) == slot):
            return record
    return {}


def is_record(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether an entry of ``uns["cellfm"]`` is the record of a run."""
    return isinstance(value, Mapping) and "cellfm_version" in value


def _is_ours(adata: AnnData, slot: str, key: str) -> bool:
    """Whether a key holds a result of an earlier run: by its record, its name, or because it is a table."""
    of_uns = slot == "uns" and isinstance(adata.uns[key], pd.DataFrame)
    return of_uns or is_record(run_record(adata, key, slot)) or key.startswith((RUN, f"X_{RUN}"))


def _set_aside(adata: AnnData, value: object, place: str) -> None:
    name, n = _FOREIGN, 1
    while name in adata.uns:
        name, n = f"{_FOREIGN}_{n}", n + 1
    adata.uns[name] = value
    warn(
        f"{place} contains {type(value).__name__} that does not come from cellfm, which stores records of runs "
        f"there: it was moved to uns[{name!r}]."
    )


def _plain(fact: Any) -> Any:
    """The fact in a type that files can hold."""
    return fact if isinstance(fact, str | bool | int | float | np.ndarray | np.generic | pd.DataFrame) else str(fact)
