"""Files that hold no cells, or cells in an unsupported format: what they are, and what to do."""

import os
import re
from collections.abc import Collection
from pathlib import Path

READ = (
    "Supported are .h5ad, .h5mu, .zarr, 10x Genomics .h5 files and folders with matrix.mtx, .loom, and tables of "
    "counts as text (.csv, .tsv), compressed or not."
)
"""The supported formats, for the end of a message."""

_R_STREAM = re.compile(rb"^(X\n\x00\x00\x00[\x02\x03]|A\n[23]\n|B\n[\x02\x03]\x00\x00\x00)")
_R_IMAGE = re.compile(rb"^RD[XAB][123]\n")
_R_NAMES = (".rds", ".rdata", ".rda", ".robj", ".qs", ".qs2")
_ZARR_FILES = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")
# An entry of the list at the end of a zip archive: 46 bytes, then the name.
_ZARR_ENTRY = re.compile(rb"PK\x01\x02.{42}(?:" + "|".join(map(re.escape, _ZARR_FILES)).encode() + rb")", re.DOTALL)
_MAX_LISTING = 1 << 22
_KINDS = (
    (b"%PDF", "a PDF document"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: run `zstd -d {name}`, and pass the file that it writes"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: extract it with `7z x {name}`, and pass the file of cells in it"),
    (b"Rar!", "a rar archive: extract it with `unrar x {name}`, and pass the file of cells in it"),
    (b"PAR1", "a Parquet table: read it with pandas.read_parquet, and write it with to_csv"),
    (b"ARROW1", "an Arrow table: read it with pandas.read_feather, and write it with to_csv"),
    (b"\x93NUMPY", "a NumPy array, which has no names of genes: make an AnnData object of it, and call write_h5ad"),
    (b"\x80\x04", "a pickle of Python, which can run code and is not opened: load it where it was made, and write the "
     "AnnData object with write_h5ad"),
)  # fmt: skip


def what_it_is(path: Path, head: bytes) -> str:
    """A description of a file that is neither HDF5 nor a table of counts, and what to do with it.

    Parameters
    ----------
    head
        Its first bytes, of what lies in it where it is compressed.
    """
    if not head:
        return "empty"
    if _R_IMAGE.match(head):
        return _r_advice(path, image=True)
    if _R_STREAM.match(head):
        return _r_advice(path, image=False)
    if head.startswith(b"%%MatrixMarket"):
        return (
            "a matrix in Matrix Market format, without the names of its genes and cells; pass the folder that contains "
            f"it together with features.tsv (or genes.tsv) and barcodes.tsv: {path.parent}"
        )
    if head.startswith(b"PK\x03\x04"):
        return _zip_advice(path, head)
    if head[257:262] == b"ustar":
        return (
            f"a tar archive, which begins with {_text(head[:100])!r}: extract it with `tar -xf {path.name}`, and pass "
            "the file or folder of cells in it"
        )
    for magic, kind in _KINDS:
        if head.startswith(magic):
            return kind.format(name=path.name)
    if path.name.lower().removesuffix(".gz").endswith(_R_NAMES):
        return _r_advice(path, image=not path.name.lower().removesuffix(".gz").endswith((".rds", ".qs", ".qs2")))
    text = decoded(head)
    if text is None:
        return "binary data of an unknown format, or damaged"
    if re.match(r"\s*<(!doctype )?html", text, re.IGNORECASE):
        return "a web page (it begins with '<!DOCTYPE html>' or '<html>'), as after a failed download"
    line = text.lstrip().split("\n", 1)[0][:60]
    table = "\t" in line or "," in line
    return f"text{', perhaps a table' if table else ''}, and begins with {line!r}"


def what_hdf5_it_is(path: Path, names: Collection[str]) -> str:
    """A description of an HDF5 file that is not a file of cells, from the names of its contents, and what to do."""
    if "cell.names" in names or {"assays", "meta.data"} <= set(names):
        stem = path.name.rsplit(".", 1)[0]
        return (
            f'an h5Seurat file. In R, SeuratDisk::Convert("{path.name}", dest = "h5ad") writes {stem}.h5ad; pass that. '
            'Its counts are in raw: pass layer="raw"'
        )
    if {"barcode_idx", "umi"} & set(names):
        return (
            "a molecule_info.h5 of Cell Ranger, which contains molecules; pass filtered_feature_bc_matrix.h5 of the "
            "same run"
        )
    shown = ", ".join(map(repr, list(names)[:5])) or "nothing"
    return f"an HDF5 file with other contents: {shown}"


def decoded(head: bytes) -> str | None:
    """The first bytes of a file as text, None where they are none."""
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = head.decode(encoding)
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # else only the last character was cut
            return None
        text = head[: error.start].decode(encoding)
    plain = sum(map(str.isascii, text[:4096]))  # any two bytes are a sign of some script
    return None if re.search(r"[\x00-\x08\x0e-\x1f]", text) or plain < len(text[:4096]) / 2 else text


def _r_advice(path: Path, *, image: bool) -> str:
    name = path.name
    stem = name.split(".")[0] or name
    if image:
        kind = "R data (objects that save() wrote, as in .RData and .rda)"
        read = f'load("{name}", verbose = TRUE) names the objects; with x for the one that contains the cells: '
    else:
        kind = "R data (an object that saveRDS() wrote, as in .rds)"
        reader = "qs::qread" if name.lower().endswith(".qs") else "readRDS"
        read = f'x <- {reader}("{name}"); '
    return (
        f"{kind}, which only R can open. Write it as .h5ad from there: {read}for a Seurat object "
        f'anndataR::write_h5ad(x, "{stem}.h5ad", x_mapping = "counts"), for a SingleCellExperiment '
        f'zellkonverter::writeH5AD(x, "{stem}.h5ad", X_name = "counts"). Then pass {stem}.h5ad'
    )


def _zip_advice(path: Path, head: bytes) -> str:
    length = int.from_bytes(head[26:28], "little")
    first = _text(head[30 : 30 + length])
    if first == "[Content_Types].xml" or first.startswith(("xl/", "_rels/")):
        return "an Excel workbook: save the sheet with the counts as .csv (Excel turns some gene names into dates)"
    if first.endswith(".npy"):
        return (
            "a NumPy archive (.npz), which has no names of genes: make an AnnData object of it in Python, and call "
            "write_h5ad"
        )
    if first in _ZARR_FILES or _ZARR_ENTRY.search(_end_of(path)):
        folder = f"{path.name.split('.')[0]}.zarr"
        return f"a zipped zarr: extract it into a folder with `unzip {path.name} -d {folder}`, and pass {folder}"
    inside = f" that contains {first!r}" if first else ""
    return (
        f"a zip archive{inside}: extract it with `unzip {path.name}` (or `python -m zipfile -e {path.name} .`), and "
        f"pass {first.split('/')[0] if first else 'the file of cells in it'}"
    )


def _end_of(path: Path) -> bytes:
    """The last bytes of a file, where a zip archive lists what it holds."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _MAX_LISTING))
        return file.read()


def _text(raw: bytes) -> str:
    return raw.split(b"\x00", 1)[0].decode(errors="replace")
