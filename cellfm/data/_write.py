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
from typing import TYPE_CHECKING

from cellfm._atomic import whole_file, whole_folder
from cellfm.data._find_10x import is_zarr
from cellfm.errors import InputError

if TYPE_CHECKING:
    import h5py
    import zarr
    from anndata import AnnData
    from mudata import MuData

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
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from error


def check_fits(data: "AnnData | MuData", path: Path) -> None:
    """Find out, before any long work, whether the format of a file is one for these cells.

    Raises
    ------
    InputError
        MuData goes to ``.h5mu`` or ``.zarr``, AnnData to ``.h5ad`` or ``.zarr``.
    """
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
    check_fits(data, path)
    whole = whole_folder(path, overwrite=True) if path.suffix == ".zarr" else whole_file(path)
    with whole as partial, _hdf5_errors(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Writing zarr v2 data", UserWarning)
        if path.suffix != ".zarr":
            _require_room(partial.parent, _bytes_of(data))
        getattr(data, f"write_{path.suffix[1:]}")(partial)


def write_copy(source: Path, data: "AnnData", path: Path, *, obsm: str, uns: str) -> None:
    """Write a copy of an ``.h5ad`` or ``.zarr`` file with one more entry in `obsm` and `uns`; X stays out of memory.

    Parameters
    ----------
    source
        The file that `data` were read from; it may be `path` itself.
    data
        The cells with the new entries.
    obsm, uns
        Keys of the entries; what the file held under them is replaced.

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
    with whole_file(path) as partial, _hdf5_errors():
        shutil.copyfile(source, partial)
        _require_room(partial.parent, _bytes_of_array(data.obsm[obsm]))
        with h5py.File(partial, "r+") as file:
            _add_entries(file, data, obsm=obsm, uns=uns)


def _write_zarr_copy(source: Path, data: "AnnData", path: Path, *, obsm: str, uns: str) -> None:
    import zarr

    with whole_folder(path, overwrite=True) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True)
        group = zarr.open_group(partial, mode="r+", use_consolidated=False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Consolidated metadata", UserWarning)
            _add_entries(group, data, obsm=obsm, uns=uns)
            if any((source / name).exists() for name in (".zmetadata", "zarr.json")):
                zarr.consolidate_metadata(group.store)


def _add_entries(file: "h5py.File | zarr.Group", data: "AnnData", *, obsm: str, uns: str) -> None:
    from anndata.io import write_elem

    for name, entries, key in (("obsm", data.obsm, obsm), ("uns", data.uns, uns)):
        if name not in file:
            write_elem(file, name, {})
        write_elem(file[name], key, entries[key])


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
    fields = (data.layers, data.obsm, data.varm, data.obsp, data.varp)
    arrays = [data.X, *raw, *(array for field in fields for array in field.values())]
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
