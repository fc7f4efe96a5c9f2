"""Read files of cells; the format is recognised from the content."""

import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from cellfm.cells.collection import tables_of_collection
from cellfm.cells.compressed import compression, first_bytes, unpacked
from cellfm.cells.find_10x import is_zarr, locate, matrices
from cellfm.cells.mudata import without_pulling
from cellfm.cells.not_cells import READ, what_hdf5_it_is, what_it_is
from cellfm.cells.read_10x import TenXFolder, open_10x_h5, ten_x_groups
from cellfm.cells.read_anndata import open_h5ad, open_zarr, read_h5ad, read_zarr
from cellfm.cells.read_loom import is_loom, read_loom
from cellfm.cells.read_text import is_table, read_table
from cellfm.cells.storable import why_unreadable
from cellfm.errors import InputError
from cellfm.genes.features import genomes_of
from cellfm.genes.text import as_text
from cellfm.io.messages import counted, reason_of

if TYPE_CHECKING:
    import h5py
    from anndata import AnnData
    from mudata import MuData

CellFormat = Literal["h5ad", "h5mu", "zarr", "10x h5", "10x mtx", "loom", "table of text", "compressed HDF5"]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_HEAD = 1 << 16


def cell_format(path: Path, *, genome: str | None = None) -> CellFormat:
    """The format of a file or folder of cells, recognised from its content.

    Raises
    ------
    InputError
        There is no file, or it is not a file of cells; the message says what it seems to be and what to do.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"No file {path}.")
    path = locate(path, genome, quiet=True)  # which is said where it is read
    if path.is_dir():
        return _format_of_folder(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file of cells: it is a pipe or a device. {READ}")
    import h5py

    try:
        if not h5py.is_hdf5(path):
            return _format_of_other(path)
        with h5py.File(path) as file:
            return _format_of_hdf5(file, path)
    except (OSError, RuntimeError) as error:
        raise _damaged(path, "HDF5", error) from error


def read_cells(path: Path, *, backed: bool = False, genome: str | None = None) -> "AnnData | MuData":
    """Read cells.

    Parameters
    ----------
    path
        An ``.h5ad``, ``.h5mu``, ``.zarr``, ``.loom`` or 10x Genomics ``.h5`` file, a 10x Genomics or STARsolo folder
        with ``matrix.mtx`` (or one above it, such as ``outs``), or a table of counts as text (``.csv``, ``.tsv``); all
        files may be compressed by gzip, bzip2 or xz.
    backed
        Leave X, raw and layers in the file; ``.h5ad`` and ``.zarr`` only.
    genome
        Read only the genes of this genome, if there are several; a table without genomes is read completely. By default
        all genes are read, but of Cell Ranger 2 files, which store genomes separately, only the human ones.

    Returns
    -------
    MuData for ``.h5mu``, AnnData otherwise. Gene names are not changed, even if two genes share a name. Rows that are
    not genes, such as antibodies, are kept; `var` says what they are.

    Raises
    ------
    InputError
        The file is missing, damaged, or not a file of cells; the message says what it seems to be, and lists the
        supported formats. Or there is no such genome, or there are several and none is human.
    """
    path = locate(Path(path), genome)
    kind = cell_format(path, genome=genome)
    if backed and kind not in ("h5ad", "zarr"):
        raise InputError(f"{path} is {kind}; only h5ad and zarr can be read with backed=True.")
    if backed and genome is not None:
        raise InputError(f"{path}: genome= leaves out genes, which is impossible with backed=True.")
    if kind == "compressed HDF5":
        with unpacked(path) as inside:
            try:
                return read_cells(inside, genome=genome)
            except InputError as error:
                raise type(error)(str(error).replace(str(inside), str(path))) from error
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(Variable|Observation) names are not unique", UserWarning)
            warnings.filterwarnings("ignore", "From 0.4 .update", FutureWarning)  # MuData, of its own reading
            data = _read(path, kind, backed, genome)
            _plain_names(data)
            if kind == "zarr":
                _require_names(data)
    except InputError:
        raise
    except Exception as error:
        if kind in ("h5ad", "h5mu") and (why := why_unreadable(path)):
            raise InputError(why) from error
        raise _damaged(path, kind, error) from error
    return data if genome is None else _of_genome(data, genome, path)


def _read(path: Path, kind: CellFormat, backed: bool, genome: str | None) -> "AnnData | MuData":
    if kind == "h5ad":
        return open_h5ad(path) if backed else read_h5ad(path)
    if kind == "zarr":
        return open_zarr(path) if backed else read_zarr(path)
    if kind == "h5mu":
        import mudata

        return mudata.read_h5mu(path)
    if kind == "loom":
        return read_loom(path)
    if kind == "table of text":
        return read_table(path)
    if kind == "10x mtx":
        return TenXFolder.open(path).whole()
    with ExitStack() as stack:
        return open_10x_h5(path, stack, genome).whole()


def _plain_names(data: "AnnData | MuData") -> None:
    """Convert names of cells and genes to plain text, in place: nullable text and categories are hard to write."""
    for table in data.mod.values() if hasattr(data, "mod") else [data]:
        for names in ("obs_names", "var_names"):
            if not _is_plain(getattr(table, names)):
                setattr(table, names, as_text(getattr(table, names)))
        if table.raw is not None and not _is_plain(table.raw.var.index):
            table.raw.var.index = pd.Index(as_text(table.raw.var.index))


def _require_names(data: "AnnData | MuData") -> None:
    """Refuse names that are all empty, as zarr returns them if chunks are missing."""
    for table in data.mod.values() if hasattr(data, "mod") else [data]:
        for place in ("obs_names", "var_names"):
            names = getattr(table, place)
            if len(names) > 1 and not (names != "").any():
                raise ValueError(f"{place} are all empty")


def _is_plain(names: pd.Index) -> bool:
    return names.dtype in (object, "str")  # the text of pandas 2, and of pandas 3


def _of_genome(data: "AnnData | MuData", genome: str, path: Path) -> "AnnData | MuData":
    """The data without the genes of other genomes; rows without a genome, and tables without genomes, are kept."""
    if not hasattr(data, "mod"):
        return _only(data, _is_of_genome(data, genome, path))
    import mudata

    kept = {name: _is_of_genome(table, genome, path) for name, table in data.mod.items()}
    tables = {name: _only(table, kept[name]) for name, table in data.mod.items()}
    options: dict[str, Any] = {"obs": data.obs, "uns": data.uns, "obsm": dict(data.obsm), "obsp": dict(data.obsp)}
    rows = np.concatenate(list(kept.values()))
    if data.axis == 0 and len(rows) == data.n_vars:  # the rows of all tables, one table after the other
        options["var"] = data.var[rows]
        options["varm"] = {key: values[rows] for key, values in data.varm.items() if key not in tables}
        options["varp"] = {key: values[rows][:, rows] for key, values in data.varp.items()}
    with without_pulling():
        return mudata.MuData(tables, axis=data.axis, **options)


def _only(table: "AnnData", genes: np.ndarray) -> "AnnData":
    return table if genes.all() else table[:, genes].copy()


def _is_of_genome(data: "AnnData", genome: str, path: Path) -> np.ndarray:
    """(n_vars,) bool: rows of the genome, and those without any."""
    genomes = genomes_of(data.var)[0]
    if genomes is None:
        return np.ones(data.n_vars, bool)
    there = sorted({str(one) for one in genomes if one is not None})
    if genome not in there:
        raise InputError(f"{path} contains no genome {genome!r}; available: {', '.join(there)}.")
    return np.asarray(pd.isna(genomes)) | (genomes == genome)


def _format_of_other(path: Path) -> CellFormat:
    """The format of a file that is not HDF5, or is compressed."""
    head = first_bytes(path, _HEAD)
    if head.startswith(_HDF5):
        return "compressed HDF5"
    if is_table(head):
        return "table of text"
    found, name = what_it_is(path, head), compression(path)
    if name and not found.startswith("R data"):  # which R compresses by itself
        raise InputError(
            f"{path} is not a file of cells: it is compressed by {name}, and its content is {found}. {READ}"
        )
    raise InputError(f"{path} is not a file of cells: it is {found}. {READ}")


def _format_of_hdf5(file: "h5py.File", path: Path) -> CellFormat:
    encoding = file.attrs.get("encoding-type", "")
    if encoding == "MuData" or "mod" in file:
        return "h5mu"
    if encoding == "anndata" or {"obs", "var"} <= file.keys():
        return "h5ad"
    if is_loom(file):
        return "loom"
    if ten_x_groups(file):
        return "10x h5"
    raise InputError(f"{path} is not a file of cells: it is {what_hdf5_it_is(path, file.keys())}. {READ}")


def _format_of_folder(path: Path) -> CellFormat:
    if tables := tables_of_collection(path):
        raise InputError(
            f"{path} is a collection of annbatch with {counted(len(tables), 'table')}: pass it to "
            f"cf.train.write_shards (cellfm shard), or pass one of its tables, such as {tables[0]}."
        )
    if is_zarr(path):
        return "zarr"
    found = matrices(path)
    if len(found) == 1:
        return "10x mtx"
    if found:
        names = ", ".join(matrix.name for matrix in found)
        raise InputError(f"{path} contains several matrices ({names}); put each sample into a separate folder.")
    inside = sorted(file.name for file in path.iterdir())
    there = f"it contains {', '.join(inside[:5])}{' ...' if len(inside) > 5 else ''}" if inside else "it is empty"
    raise InputError(f"{path} is a folder without matrix.mtx and not a .zarr; {there}. {READ}")


def _damaged(path: Path, kind: str, error: Exception) -> InputError:
    reason = reason_of(error).rstrip(".")
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ == "IORegistryError":  # of anndata: a kind of element that it has no reader for
            return InputError(
                f"{path} is {kind}, but the installed anndata cannot read a part of it: {reason}. It may "
                "come from a newer anndata or another program: pip install -U anndata, or write the file again."
            )
        cause = cause.__cause__
    return InputError(
        f"{path} looks like {kind} but cannot be read: {reason}. It may be cut short or damaged; get a new copy. {READ}"
    )
