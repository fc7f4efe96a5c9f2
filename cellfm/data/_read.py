"""Files of cells: what kind a file is, told by its content, and reading it."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cellfm.errors import InputError

if TYPE_CHECKING:
    import h5py
    from anndata import AnnData
    from mudata import MuData

CellFormat = Literal["h5ad", "h5mu", "zarr", "10x h5", "10x mtx"]

_READ = "Read are .h5ad, .h5mu, .zarr, 10x Genomics .h5 and 10x Genomics folders with matrix.mtx."
_MATRIX_NAMES = ("matrix.mtx", "matrix.mtx.gz")
_MAGIC = {
    b"\x1f\x8b": "gzip-compressed; unpack it first",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"BZh": "bzip2-compressed; unpack it first",
    b"%%MatrixMarket": "a matrix in Matrix Market format; pass the folder that holds it with its genes and barcodes",
    b"RDX": "an R data file; export it from R, for instance with zellkonverter::writeH5AD",
    b"%PDF": "a PDF document",
}


def cell_format(path: Path) -> CellFormat:
    """What kind of file or folder of cells `path` is, told by its content.

    Raises
    ------
    InputError
        There is nothing at `path`, or it is something else; the message says what it seems to be.
    """
    if path.is_dir():
        return _format_of_folder(path)
    if not path.exists():
        raise InputError(f"No file {path}.")
    if not path.is_file():
        raise InputError(f"{path} is no file of cells: it is a pipe or a device. {_READ}")
    import h5py

    try:
        if not h5py.is_hdf5(path):
            with path.open("rb") as file:
                raise InputError(f"{path} is not a file of cells: it is {_kind_of(file.read(4096))}. {_READ}")
        with h5py.File(path) as file:
            return _format_of_hdf5(file, path)
    except (OSError, RuntimeError) as error:
        raise _damaged(path, "HDF5", error) from error


def read_cells(path: Path, *, backed: bool = False) -> "AnnData | MuData":
    """Read cells.

    Parameters
    ----------
    path
        An ``.h5ad``, ``.h5mu``, ``.zarr`` or 10x Genomics ``.h5`` file, or a 10x Genomics folder with ``matrix.mtx``.
    backed
        Leave X, raw and layers in the file; ``.h5ad`` and ``.zarr`` only.

    Returns
    -------
    MuData for ``.h5mu``, AnnData otherwise. Gene names stay as they are, also where two genes share one.

    Raises
    ------
    InputError
        The file is missing, damaged, or something else; the message says what it seems to be and what is read.
    """
    path = Path(path)
    kind = cell_format(path)
    if backed and kind not in ("h5ad", "zarr"):
        raise InputError(f"{path} is {kind}; only h5ad and zarr can be read with backed=True.")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(Variable|Observation) names are not unique", UserWarning)
            warnings.filterwarnings("ignore", "From 0.4 .update", FutureWarning)  # MuData, of its own reading
            return _read(path, kind, backed)
    except Exception as error:
        raise _damaged(path, kind, error) from error


def _read(path: Path, kind: CellFormat, backed: bool) -> "AnnData | MuData":
    import anndata

    if kind == "h5ad":
        return _open_h5ad(path) if backed else anndata.read_h5ad(path)
    if kind == "zarr":
        return _open_zarr(path) if backed else anndata.read_zarr(path)
    if kind == "h5mu":
        import mudata

        return mudata.read_h5mu(path)
    import scanpy

    if kind == "10x h5":
        return scanpy.read_10x_h5(path)
    matrix = _matrices(path)[0].name
    return scanpy.read_10x_mtx(path, make_unique=False, prefix=matrix[: matrix.index("matrix.mtx")] or None)


def _open_h5ad(path: Path) -> "AnnData":
    """Cells whose X, raw and layers stay in the file; anndata itself reads the layers of backed files into memory."""
    import anndata
    import h5py

    with h5py.File(path) as file:
        if file.attrs.get("encoding-type") != "anndata":  # from before anndata 0.7
            return anndata.read_h5ad(path, backed="r")
        names = list(file["layers"]) if "layers" in file else []
        raw = _raw_tables(file)  # its X is found in the file by anndata
        adata = anndata.AnnData(filename=path, filemode="r", raw=raw, **_tables(file))
    for name in names:
        adata.layers[name] = _matrix(adata.file[f"layers/{name}"])
    return adata


def _open_zarr(path: Path) -> "AnnData":
    """Cells whose X, raw and layers stay on disk; their rows are read when they are taken."""
    import zarr
    from anndata import AnnData

    group: Any = zarr.open_group(path, mode="r")
    layers = {name: _matrix(group["layers"][name]) for name in group["layers"]} if "layers" in group else {}
    raw = _raw_tables(group)
    if raw is not None:
        raw["X"] = _matrix(group["raw"]["X"])
    return AnnData(X=_matrix(group["X"]) if "X" in group else None, layers=layers, raw=raw, **_tables(group))


def _tables(group: Any) -> dict[str, Any]:
    """All but the matrices of counts, in memory."""
    from anndata.io import read_elem

    names = ("obs", "var", "obsm", "varm", "obsp", "varp", "uns")
    return {name: read_elem(group[name]) for name in names if name in group}


def _raw_tables(group: Any) -> dict[str, Any] | None:
    """Of raw; None where there is none, which some files say by an empty one."""
    from anndata.io import read_elem

    if "raw" not in group or hasattr(group["raw"], "dtype") or "X" not in group["raw"]:
        return None
    return {name: read_elem(group["raw"][name]) for name in ("var", "varm") if name in group["raw"]}


def _matrix(element: Any) -> Any:
    """A matrix whose rows are read when they are taken; one by columns, whose rows are all over the file, in memory."""
    from anndata.io import read_elem, sparse_dataset

    if hasattr(element, "dtype"):  # an array
        return element
    return sparse_dataset(element) if element.attrs.get("encoding-type") == "csr_matrix" else read_elem(element)


def _format_of_hdf5(file: "h5py.File", path: Path) -> CellFormat:
    encoding = file.attrs.get("encoding-type", "")
    if encoding == "MuData" or "mod" in file:
        return "h5mu"
    if encoding == "anndata" or {"obs", "var"} <= file.keys():
        return "h5ad"
    groups = [file[name] for name in file]
    if any(hasattr(group, "keys") and {"data", "indices", "indptr"} <= group.keys() for group in groups):
        return "10x h5"
    if {"row_attrs", "col_attrs"} <= file.keys():
        found = "a loom file; convert it with scanpy.read_loom and write_h5ad"
    else:
        found = f"an HDF5 file of another kind, with {', '.join(map(repr, list(file)[:5])) or 'nothing'} in it"
    raise InputError(f"{path} is not a file of cells: it is {found}. {_READ}")


def _format_of_folder(path: Path) -> CellFormat:
    if is_zarr(path):
        return "zarr"
    found = _matrices(path)
    if len(found) == 1:
        return "10x mtx"
    if found:
        names = ", ".join(matrix.name for matrix in found)
        raise InputError(f"{path} holds several matrices ({names}); put each sample into a folder of its own.")
    raise InputError(f"{path} is a folder without matrix.mtx and not a .zarr. {_READ}")


def is_zarr(path: Path) -> bool:
    """Whether a folder holds zarr, of format 2 or 3."""
    return any((path / name).exists() for name in (".zgroup", "zarr.json"))


def _matrices(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.name.endswith(_MATRIX_NAMES))


def _kind_of(head: bytes) -> str:
    """What a file seems to be, from its first bytes."""
    if not head:
        return "empty"
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else only the last character was cut
            return "binary data of an unknown kind, or damaged"
        text = head[: error.start].decode()
    line = text.lstrip().split("\n", 1)[0][:60]
    table = "\t" in line or "," in line
    return f"text{', perhaps a table' if table else ''}, and begins with {line!r}"


def _damaged(path: Path, kind: str, error: Exception) -> InputError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(
        f"{path} looks like {kind} but cannot be read: {reason}. It may be cut short or damaged; get it anew. {_READ}"
    )
