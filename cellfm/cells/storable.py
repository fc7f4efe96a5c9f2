"""Check before any work, element by element, what anndata can write and read again."""

import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cellfm.errors import InputError
from cellfm.io.messages import reason_of
from cellfm.keys import RUN

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

_OF_ZARR = (".zattrs", ".zgroup", ".zarray", ".zmetadata", "zarr.json")
_MAX_BYTES = 200  # of a name: file systems take 255, and zarr and its temporary files add to it
_ARRAYS = ("obsm", "varm", "layers", "obsp", "varp")
_SHOWN = 5


def name_problem(name: object, suffix: str = ".zarr", *, table: bool = False) -> str | None:
    """Why a file cannot hold a key; None if it can.

    Parameters
    ----------
    suffix
        Of the file; ``.zarr`` takes fewer names than the others.
    table
        Whether it is a column: those of .h5ad may have slashes before anndata 0.13.
    """
    if not isinstance(name, str):
        return f"is {type(name).__name__} and not text"
    if not name:
        return "is empty"
    if name == "." or (name == ".." and suffix == ".zarr"):
        return "is no name"
    try:
        n_bytes = len(name.encode())
    except UnicodeEncodeError:
        return "has characters that are not Unicode"
    if "\x00" in name:
        return "has a null character"
    if table and name == "_index":
        return "is a name that anndata reserves"
    if "/" in name and not (table and suffix != ".zarr" and columns_may_have_slashes()):
        return "has a slash"
    if suffix == ".zarr":
        if "\\" in name:
            return "has a backslash"
        if name in _OF_ZARR:
            return "is a name that zarr reserves"
        if n_bytes > _MAX_BYTES:
            return f"has {n_bytes} bytes, more than {_MAX_BYTES}"
    return None


def columns_may_have_slashes() -> bool:
    """Whether anndata writes columns with slashes to .h5ad, as it does before version 0.13."""
    from packaging.version import Version

    return Version(version("anndata")).release < (0, 13)


def require_storable(data: "AnnData | MuData", suffix: str) -> None:
    """Check, before any long work, whether cells can be written, and correct what can be corrected.

    Names of cells and genes as nullable strings become ordinary text, names that are numbers become text, and a column
    ``_index`` is renamed, in `data` itself.

    Raises
    ------
    InputError
        Something cannot be written or read again; the message names each place and says what to do.
    """
    tables = data.mod.values() if hasattr(data, "mod") else [data]
    for adata in tables:
        _put_right(adata)
    if problems := list(problems_of(data, suffix)):
        shown = "; ".join(f"{place} {reason}" for place, reason in problems[:_SHOWN])
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        columns = all(reason == "has a slash" and (".obs[" in place or ".var[" in place) for place, reason in problems)
        other = ", or write .h5ad, which takes columns with slashes" if columns and columns_may_have_slashes() else ""
        raise InputError(
            f"These cannot be written to {suffix}: {shown}{more}. Rename, convert or remove them in the input{other}."
        )


def problems_of(data: "AnnData | MuData", suffix: str) -> Iterator[tuple[str, str]]:
    """What cannot be written, by place, with the reason."""
    if hasattr(data, "mod"):
        for name, adata in data.mod.items():
            yield from _problems_of(adata, suffix, f"mdata.mod[{name!r}]")
    yield from _problems_of(data, suffix, "mdata" if hasattr(data, "mod") else "adata")


def _problems_of(adata: Any, suffix: str, whole: str) -> Iterator[tuple[str, str]]:
    yield from _of_table(adata.obs, suffix, f"{whole}.obs")
    yield from _of_table(adata.var, suffix, f"{whole}.var")
    for slot in _ARRAYS:
        yield from _of_arrays(getattr(adata, slot, None) or {}, suffix, f"{whole}.{slot}")
    if getattr(adata, "raw", None) is not None:
        yield from _of_table(adata.raw.var, suffix, f"{whole}.raw.var")
        yield from _of_arrays(adata.raw.varm, suffix, f"{whole}.raw.varm")
    yield from _of_mapping(adata.uns, suffix, f"{whole}.uns")


def _of_table(table: pd.DataFrame, suffix: str, place: str) -> Iterator[tuple[str, str]]:
    if (name := table.index.name) is not None and name != "_index":
        if problem := name_problem(name, suffix, table=True):
            yield f"the name {name!r} of the index of {place}", problem
        elif name in table and not (table[name].to_numpy() == table.index.to_numpy()).all():
            yield f"{place}[{name!r}]", "has the name of the index"
    if problem := _write_problem(pd.DataFrame({"names": _values_to_try(table.index.to_series())}), suffix):
        yield f"the index of {place}", problem
    for name in dict.fromkeys(table.columns[table.columns.duplicated()]):
        yield f"{place}[{name!r}]", "occurs more than once"
    for i, name in enumerate(table.columns):
        if problem := name_problem(name, suffix, table=True):
            yield f"{place}[{name!r}]", problem
        column = table.iloc[:, i]
        if _is_numeric(column.array):
            continue
        values = pd.DataFrame({"column": _values_to_try(column)})
        problem = _write_problem(values, ".h5ad")  # zarr makes text of anything, which HDF5 refuses
        if problem is None and suffix == ".zarr":
            problem = _write_problem(values, suffix)
        if problem:
            yield f"{place}[{name!r}]", problem


def _of_arrays(arrays: Mapping[str, Any], suffix: str, place: str) -> Iterator[tuple[str, str]]:
    for name, array in arrays.items():
        if problem := name_problem(name, suffix):
            yield f"{place}[{name!r}]", problem
        elif isinstance(array, pd.DataFrame):
            yield from _of_table(array, suffix, f"{place}[{name!r}]")
        elif not _is_numeric(array) and (problem := _write_problem(array, suffix)):
            yield f"{place}[{name!r}]", problem


def _of_mapping(mapping: Mapping[Any, Any], suffix: str, place: str) -> Iterator[tuple[str, str]]:
    for name, value in mapping.items():
        if problem := name_problem(name, suffix):
            yield f"{place}[{name!r}]", problem
        elif isinstance(value, Mapping):
            yield from _of_mapping(value, suffix, f"{place}[{name!r}]")
        elif not _is_numeric(value) and (problem := _write_problem(value, suffix)):
            yield f"{place}[{name!r}]", problem


def _is_numeric(values: object) -> bool:
    """Whether these are numbers as every file holds them: of NumPy, SciPy, dask, or in a file already."""
    kind = getattr(values, "dtype", None)
    return isinstance(kind, np.dtype) and kind.kind in "biufc" and not isinstance(values, pd.Series | pd.Index)


def _values_to_try(column: pd.Series) -> Any:
    """As few values as show whether a column can be written: of text each once, as anndata writes it, too."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return pd.Categorical.from_codes([], dtype=column.dtype)
    if column.dtype != object:
        return column.iloc[:1].array
    if pd.api.types.infer_dtype(column, skipna=True) == "string":
        return pd.unique(column.dropna())
    return column.to_numpy()


def _write_problem(value: Any, suffix: str) -> str | None:
    """What anndata says when it writes something to a file in memory."""
    import anndata
    from anndata.io import write_elem

    try:
        with warnings.catch_warnings(), anndata.settings.override(allow_write_nullable_strings=True):
            warnings.simplefilter("ignore")
            write_elem(_in_memory(suffix), "element", value)
    except Exception as error:  # noqa: BLE001
        return f"contains {_what_is_in(value)} ({reason_of(error)})"
    return None


def _what_is_in(value: Any) -> str:
    if isinstance(value, pd.DataFrame):
        column = value.iloc[:, 0]
        values = pd.Series(column.cat.categories) if isinstance(column.dtype, pd.CategoricalDtype) else column
        if values.dtype != object:
            return f"values of the type {values.dtype}"
        names = sorted({type(one).__name__ for one in values})
        return f"values of the type{'' if len(names) == 1 else 's'} {', '.join(names)}"
    return f"a {type(value).__name__}"


def _in_memory(suffix: str) -> Any:
    if suffix == ".zarr":
        import zarr

        return zarr.open_group(zarr.storage.MemoryStore(), mode="w")
    import h5py

    return h5py.File("memory", "w", driver="core", backing_store=False)


def _put_right(adata: "AnnData") -> None:
    for table in (adata.obs, adata.var, *([] if adata.raw is None else [adata.raw.var])):
        if isinstance(table.index.dtype, pd.StringDtype) and not table.index.hasnans:
            table.index = table.index.astype(object)
        if table.index.name is not None and not isinstance(table.index.name, str):
            table.index.name = str(table.index.name)
        names = [name if isinstance(name, str) else str(name) for name in table.columns]
        if "_index" in names:
            free = next(name for name in ("index", *(f"index_{i}" for i in range(len(names) + 1))) if name not in names)
            names[names.index("_index")] = free
        if names != list(table.columns):
            table.columns = names


def storable_part(data: "AnnData | MuData", suffix: str) -> "AnnData | MuData":
    """Cells with only what can be written: X, plain matrices, valid columns, and the records of runs."""
    from anndata import AnnData

    if hasattr(data, "mod"):
        from mudata import MuData

        return MuData({name: storable_part(adata, suffix) for name, adata in data.mod.items()})

    def passing(table: pd.DataFrame) -> pd.DataFrame:
        kept = [not list(_of_table(table.iloc[:, [i]], suffix, "")) for i in range(table.shape[1])]
        return table.loc[:, kept]

    def plain(arrays: Mapping[str, Any]) -> dict[str, Any]:
        return {k: array for k, array in arrays.items() if _is_numeric(array) and name_problem(k, suffix) is None}

    fields = {slot: plain(getattr(data, slot)) for slot in ("obsm", "varm", "layers")}
    uns = {RUN: data.uns[RUN]} if RUN in data.uns else {}
    return AnnData(data.X, obs=passing(data.obs), var=passing(data.var), uns=uns, **fields)


def why_unreadable(path: Path) -> str | None:
    """Names in an HDF5 file that anndata has written and cannot read, with what to do; None where all can be read."""
    import h5py

    try:
        with h5py.File(path) as file:
            modalities = [f"mod/{name}/" for name in file["mod"]] if "mod" in file else []
            slots = [f"{start}{slot}" for start in ("", "raw/", *modalities) for slot in _ARRAYS]
            found = [(slot, name) for slot in slots if slot in file for name in _nested_names(file[slot])]
    except (OSError, RuntimeError, KeyError, AttributeError):  # it is damaged
        return None
    if not found:
        return None
    listed = ", ".join(f"{slot.replace('/', '.')}[{name!r}]" for slot, name in found)
    new_names = [(f"{slot}/{name}", f"{slot}/{name.replace('/', '_')}") for slot, name in found]
    moves = "".join(f"file.move({old!r}, {new!r}); " for old, new in new_names)
    tops = "; ".join(f"del file[{top!r}]" for top in sorted({f"{slot}/{name.split('/')[0]}" for slot, name in found}))
    return (
        f"{path} contains names with slashes, which anndata writes and cannot read again: {listed}. Rename them in the "
        f"file first, in Python: import h5py; file = h5py.File({str(path)!r}, 'r+'); {moves}{tops}; file.close()"
    )


def _nested_names(group: Any, start: str = "") -> Iterator[str]:
    """Names with slashes, which lie in groups that are no elements."""
    for name in group:
        child = group[name]
        if start and (not hasattr(child, "keys") or "encoding-type" in child.attrs):
            yield f"{start}{name}"
        elif hasattr(child, "keys") and not child.attrs.keys():
            yield from _nested_names(child, f"{start}{name}/")
