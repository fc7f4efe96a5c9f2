"""Writing cells: whole or not at all, and refused before any long work where it cannot be."""

import errno
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellfm.cells.find_10x import is_zarr
from cellfm.cells.storable import require_storable, storable_part, why_unreadable
from cellfm.errors import DataWarning, InputError
from cellfm.io.atomic_file import atomic_file, whole_folder
from cellfm.io.messages import reason_of

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

_PARTS = {"X", "layers", "obs", "obsm", "obsp", "raw", "uns", "var", "varm", "varp", "zarr.json"}
"""What the root of a file of cells holds."""
CELL_SUFFIXES = (".h5ad", ".zarr", ".h5mu")
"""What cells can be written to."""
PICTURE_SUFFIXES = (".png", ".pdf", ".svg")
"""What pictures can be written to."""


def check_writable(path: Path, suffixes: tuple[str, ...] = CELL_SUFFIXES) -> None:
    """Find out, before any long work, whether a file can be written.

    Raises
    ------
    InputError
        The suffix is none of `suffixes`, the folder is missing or refuses, or something else goes by that name.
    """
    path = Path(path)
    if path.suffix not in suffixes:
        raise InputError(f"{path}: the name must end in {', '.join(suffixes)}, which chooses the format.")
    if path.is_dir() and (path.suffix != ".zarr" or (any(path.iterdir()) and not is_zarr(path))):
        raise InputError(f"{path} is a folder; choose another name.")
    if path.suffix == ".zarr" and path.is_file():
        raise InputError(f"{path} is a file, but a .zarr is a folder; choose another name.")
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}.")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
            (Path(folder) / path.name).touch()
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from error


def check_fits(data: "AnnData | MuData", path: Path, *, copied_from: Path | None = None) -> None:
    """Find out, before any long work, whether a file can hold these cells.

    Parameters
    ----------
    copied_from
        The file that is copied as it is, where nothing of the cells is written anew.

    Raises
    ------
    InputError
        MuData goes to ``.h5mu`` or ``.zarr``, AnnData to ``.h5ad`` or ``.zarr``; something cannot be written, or not be
        read again; the disk is full.
    """
    _check_format(data, path)
    if copied_from is None:
        require_storable(data, path.suffix)
        n_bytes = _bytes_of(data)
    else:
        if copied_from.is_file() and (why := why_unreadable(copied_from)):
            raise InputError(why)
        files = copied_from.rglob("*") if copied_from.is_dir() else [copied_from]
        n_bytes = sum(file.stat().st_size for file in files if file.is_file())
    try:
        _require_room(path.parent, n_bytes)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from error


def _check_format(data: "AnnData | MuData", path: Path) -> None:
    from mudata import MuData

    if isinstance(data, MuData) != (path.suffix == ".h5mu") and path.suffix != ".zarr":
        fitting = ".h5mu or .zarr" if isinstance(data, MuData) else ".h5ad or .zarr"
        raise InputError(f"{path}: {type(data).__name__} is written to {fitting}.")


def write_cells(data: "AnnData | MuData", path: Path) -> None:
    """Write cells to ``.h5ad``, ``.h5mu`` or ``.zarr``, by the suffix; whole or not at all, in place of what was there.

    Raises
    ------
    InputError
        The file cannot be written, or the format does not fit: MuData goes to ``.h5mu`` or ``.zarr``.
    """
    path = Path(path)
    check_writable(path)
    _check_format(data, path)
    whole = whole_folder(path, overwrite=True) if path.suffix == ".zarr" else atomic_file(path)
    with whole as partial, _hdf5_errors(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Writing zarr v2 data", UserWarning)
        warnings.filterwarnings("ignore", "Forward slashes will be disallowed", FutureWarning)  # in names of columns
        if path.suffix != ".zarr":
            _require_room(partial.parent, _bytes_of(data))
        _write(data, partial, path.suffix)


def _write(data: "AnnData | MuData", path: Path, suffix: str) -> None:
    """Write all, or where anndata raises after all, what is most likely to be written: the results among it."""
    import anndata

    with anndata.settings.override(allow_write_nullable_strings=True):
        try:
            getattr(data, f"write_{suffix[1:]}")(path)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001
            reason = reason_of(error)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            getattr(storable_part(data, suffix), f"write_{suffix[1:]}")(path)
            warnings.warn(
                f"anndata could not write all of the cells: {reason}. The file contains X, layers, embeddings, the "
                "columns that could be written and the records of runs, but nothing else.",
                DataWarning,
                stacklevel=4,
            )


def write_copy(source: Path, data: "AnnData", path: Path, *, obsm: str, uns: str) -> None:
    """Write a copy of an ``.h5ad`` or ``.zarr`` file with one more entry in `obsm` and `uns`; X stays out of memory.

    Parameters
    ----------
    source
        The file that `data` were read from; it may be `path` itself.
    data
        The cells with the new entries.
    obsm, uns
        Keys of the entries; what the file held under them is replaced. Entries of `uns` that it does not hold are
        added.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    if path.suffix == ".zarr":
        _write_zarr_copy(source, data, path, obsm=obsm, uns=uns)
        return
    import h5py

    with h5py.File(source) as file:
        current = file.attrs.get("encoding-type") == "anndata"
    if not current:  # from before anndata 0.7, whose obsm is a table
        write_cells(data.to_memory(), path)
        return
    data.file.close()  # an open file cannot be replaced everywhere
    with atomic_file(path) as partial, _hdf5_errors():
        shutil.copyfile(source, partial)
        _require_room(partial.parent, _bytes_of_array(data.obsm[obsm]))
        with h5py.File(partial, "r+") as file:
            if source.resolve() != path.resolve():
                _drop_foreign(file)
            _add_entries(file, data, obsm=obsm, uns=uns)


def _write_zarr_copy(source: Path, data: "AnnData", path: Path, *, obsm: str, uns: str) -> None:
    import zarr

    with whole_folder(path, overwrite=True) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True)
        # Version 2 of zarr reads consolidated metadata only where it is asked to.
        alone: dict[str, Any] = {} if zarr.__version__.startswith("2.") else {"use_consolidated": False}
        group = zarr.open_group(partial, mode="r+", **alone)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Consolidated metadata", UserWarning)
            if source.resolve() != path.resolve():
                _drop_foreign(group)
            _add_entries(group, data, obsm=obsm, uns=uns)
            if any((source / name).exists() for name in (".zmetadata", "zarr.json")):
                zarr.consolidate_metadata(group.store)


def _add_entries(file: Any, data: "AnnData", *, obsm: str, uns: str) -> None:
    from anndata.io import write_elem

    for name in ("obsm", "uns"):
        if name not in file:
            write_elem(file, name, {})
    write_elem(file["obsm"], obsm, data.obsm[obsm])
    for key in data.uns:
        if key == uns or key not in file["uns"]:
            write_elem(file["uns"], key, data.uns[key])


def _drop_foreign(file: Any) -> None:
    """Leave out what is no part of AnnData: anndata reads no file that holds more."""
    foreign = sorted(set(file) - _PARTS)
    for name in foreign:
        del file[name]
    if foreign:
        verb = "is no part" if len(foreign) == 1 else "are no parts"
        message = f"{', '.join(map(repr, foreign))} in the input {verb} of AnnData and left out of the output."
        warnings.warn(message, DataWarning, stacklevel=4)


def _require_room(folder: Path, n_bytes: int) -> None:
    """Stop before a disk is full: HDF5 cannot close a file then, and ends the process with a crash, sooner or later.

    Raises
    ------
    OSError
        There is less room than that.
    """
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        sizes = f"{n_bytes / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB are free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({sizes})")


def _bytes_of(data: "AnnData | MuData") -> int:
    """What the matrices and tables of cells take, at least."""
    if hasattr(data, "mod"):
        return sum(map(_bytes_of, data.mod.values()))
    raw = [] if data.raw is None else [data.raw.X]
    layers = [array for name, array in data.layers.items() if name is not None]  # where anndata 0.13 lists X
    arrays = [data.X, *raw, *layers]
    arrays += [array for field in (data.obsm, data.varm, data.obsp, data.varp) for array in field.values()]
    return sum(map(_bytes_of_array, arrays)) + 8 * (data.obs.size + data.var.size)


def _bytes_of_array(array: object) -> int:
    parts = [getattr(array, name) for name in ("data", "indices", "indptr") if hasattr(array, "indptr")]
    return sum(int(getattr(part, "nbytes", 0)) for part in parts or [array])


@contextmanager
def _hdf5_errors() -> Iterator[None]:
    """HDF5 reports a full disk as RuntimeError when it closes a file, and in many words: keep the system's own."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if number := re.search(r"errno = (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        if isinstance(error, OSError):
            raise
        raise OSError(str(error)) from error
