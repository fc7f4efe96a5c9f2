"""Read .h5ad and .zarr, completely or with matrices left on disk; unknown elements are skipped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cellfm.io.logging import logger

if TYPE_CHECKING:
    from anndata import AnnData

_ALIGNED = {"obsm": "obs", "obsp": "obs", "varm": "var", "varp": "var"}


def read_h5ad(path: Path) -> "AnnData":
    """Read with anndata; if that fails, element by element, without unknown elements."""
    import anndata
    import h5py

    try:
        return anndata.read_h5ad(path)
    except Exception as error:
        with h5py.File(path) as file:
            if file.attrs.get("encoding-type") != "anndata":  # from before anndata 0.7
                raise
            logger.debug("%s is read element by element: %s.", path, error)
            return by_elements(file, _in_memory, path)


def read_zarr(path: Path) -> "AnnData":
    """The same for a zarr."""
    import anndata
    import zarr

    try:
        return anndata.read_zarr(path)
    except Exception as error:
        group: Any = zarr.open_group(path, mode="r")
        if group.attrs.get("encoding-type") != "anndata":
            raise
        logger.debug("%s is read element by element: %s.", path, error)
        return by_elements(group, _in_memory, path)


def open_h5ad(path: Path) -> "AnnData":
    """Cells whose X, raw and layers stay in the file; anndata itself loads the layers of backed files."""
    import anndata
    import h5py

    with h5py.File(path) as file:
        if file.attrs.get("encoding-type") != "anndata":  # from before anndata 0.7
            return anndata.read_h5ad(path, backed="r")
        if not _is_there(file, "X"):  # without which anndata opens no file
            return by_elements(file, _in_memory, path)
        names = list(flat_entries(file["layers"])) if "layers" in file else []
        raw = _raw_tables(file, path)  # its X is found in the file by anndata
        adata = anndata.AnnData(filename=path, filemode="r", raw=raw, **_tables(file, path))
    for name in names:
        adata.layers[name] = _on_disk(adata.file[f"layers/{name}"])
    return adata


@contextmanager
def closing(data: Any) -> Iterator[None]:
    """A block after which the file of backed cells is closed, even after an error, whose traceback keeps them alive."""
    try:
        yield
    finally:
        if getattr(data, "isbacked", False) and data.file.is_open:
            data.file.close()


def open_zarr(path: Path) -> "AnnData":
    """Cells whose X, raw and layers stay on disk; rows are read on access."""
    import zarr

    return by_elements(zarr.open_group(path, mode="r"), _on_disk, path)


def flat_entries(group: Any) -> dict[str, Any]:
    """The matrices of a group by name; names with slashes, which HDF5 and zarr treat as folders, are restored.

    Other elements are left out.
    """
    found: dict[str, Any] = {}
    for name in group:
        element = group[name]
        if hasattr(element, "keys") and element.attrs.get("encoding-type", "dict") == "dict":
            found |= {f"{name}/{inner}": value for inner, value in flat_entries(element).items()}
        elif hasattr(element, "keys") or len(getattr(element, "shape", ())) > 1:
            found[name] = element
    return found


def by_elements(group: Any, matrix: Callable[[Any], Any], path: Path, *, only_counts: bool = False) -> "AnnData":
    """Cells of an open .h5ad or .zarr; elements that anndata cannot read are left out, with a message.

    Parameters
    ----------
    matrix
        Makes a matrix of an element of the file.
    only_counts
        Read nothing but X, raw, layers, `obs` and `var`.
    """
    from anndata import AnnData

    x = matrix(group["X"]) if _is_there(group, "X") else None
    layers = flat_entries(group["layers"]) if "layers" in group else {}
    layers = {name: matrix(element) for name, element in layers.items()}
    raw = _raw_tables(group, path)
    if raw is not None:
        raw["X"] = matrix(group["raw"]["X"])
    return AnnData(X=x, layers=layers, raw=raw, **_tables(group, path, only_counts=only_counts))


def _is_there(group: Any, name: str) -> bool:
    return name in group and group[name].attrs.get("encoding-type") != "null"


def _on_disk(element: Any) -> Any:
    """A matrix whose rows are read on access, or in memory if it is stored by columns."""
    from anndata.io import sparse_dataset

    if hasattr(element, "dtype"):  # an array
        return element
    return sparse_dataset(element) if element.attrs.get("encoding-type") == "csr_matrix" else _in_memory(element)


def _in_memory(element: Any) -> Any:
    from anndata.io import read_elem

    return read_elem(element)


def _tables(group: Any, path: Path, *, only_counts: bool = False) -> dict[str, Any]:
    """All elements except the matrices of counts, in memory."""
    skipped: list[str] = []
    found: dict[str, Any] = {name: _frame(group[name], name, skipped) for name in ("obs", "var")}
    for name, axis in () if only_counts else _ALIGNED.items():
        if name in group:
            entries = _entries(group[name], name, skipped)
            fits = {key: np.shape(value)[:1] == (len(found[axis]),) for key, value in entries.items()}
            found[name] = {key: value for key, value in entries.items() if fits[key]}
            skipped += [f"{name}/{key}" for key in entries if not fits[key]]
    if "uns" in group and not only_counts:
        found["uns"] = _entries(group["uns"], "uns", skipped)
    if skipped:
        logger.warning("%s: left out what anndata cannot read: %s.", path, ", ".join(skipped))
    return found


def _raw_tables(group: Any, path: Path) -> dict[str, Any] | None:
    """The tables of raw; None if there is none or if it is empty."""
    if "raw" not in group or hasattr(group["raw"], "dtype") or "X" not in group["raw"]:
        return None
    skipped: list[str] = []
    found: dict[str, Any] = {}
    if "var" in group["raw"]:
        found["var"] = _frame(group["raw"]["var"], "raw/var", skipped)
    if "varm" in group["raw"]:
        found["varm"] = _entries(group["raw"]["varm"], "raw/varm", skipped)
    if skipped:
        logger.warning("%s: left out what anndata cannot read: %s.", path, ", ".join(skipped))
    return found


def _entries(group: Any, name: str, skipped: list[str]) -> dict[str, Any]:
    """The entries of a group in memory; entries that cannot be read are skipped."""
    from anndata.io import read_elem

    try:
        found = read_elem(group)
    except Exception as error:  # noqa: BLE001 (what it raises depends on what it finds)
        _refuse_damage(error)
    else:
        return dict(found)
    entries = {}
    for key in group:
        element = group[key]
        if hasattr(element, "keys") and element.attrs.get("encoding-type", "dict") == "dict":
            entries[key] = _entries(element, f"{name}/{key}", skipped)
            continue
        try:
            entries[key] = read_elem(element)
        except Exception as error:  # noqa: BLE001
            _refuse_damage(error)
            skipped.append(f"{name}/{key}")
    return entries


def _frame(group: Any, name: str, skipped: list[str]) -> pd.DataFrame:
    """A table, without columns that cannot be read."""
    from anndata.io import read_elem

    try:
        return read_elem(group)
    except Exception as error:
        _refuse_damage(error)
        if not hasattr(group, "keys") or "_index" not in group.attrs:
            raise
    index = read_elem(group[group.attrs["_index"]])
    columns = {}
    for column in group.attrs.get("column-order", ()):
        try:
            columns[column] = read_elem(group[column])
        except Exception as error:  # noqa: BLE001
            _refuse_damage(error)
            skipped.append(f"{name}/{column}")
    return pd.DataFrame(columns, index=pd.Index(index))


def _refuse_damage(error: BaseException | None) -> None:
    """Raise the error if the file is damaged, but not if anndata merely does not know an element."""
    first = error
    while error is not None:
        if isinstance(error, OSError | RuntimeError | MemoryError) and first is not None:
            raise first
        error = error.__cause__
