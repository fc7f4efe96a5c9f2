"""The files of one shard: names, types, writing with checksums, and the folders that hold shards."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from cellfm.corpus._pack import PackedCells

FORMAT = 1
"""Version of the format, stored in every manifest."""
MANIFEST = "manifest.json"
PARTIAL = "manifest.partial.jsonl"
"""File of an unfinished corpus: its plan, then a line for each finished shard."""
MISSING = -1
"""Code of a cell without a value in a column."""


def shard_name(number: int) -> str:
    return f"shard-{number:05d}"


def codes_name(column: str) -> str:
    """Name of the file with the codes of a column of `obs`; valid for any name of a column."""
    return f"obs.{quote(column, safe=' ')}.npy"


def write_shard(
    folder: Path, parts: Sequence[PackedCells], validation: np.ndarray, codes: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Write the files of a shard into a folder.

    Parameters
    ----------
    parts
        The cells, in order.
    validation
        (n_cells,) bool: cells that are left out of training.
    codes
        Column of `obs` to (n_cells,) place of each cell's value in the categories, -1 where missing.

    Returns
    -------
    The entry of the manifest for the shard: `n_cells`, `n_tokens`, and of each of its `files` the `bytes` and `sha256`.
    """
    lengths = np.concatenate([part.lengths for part in parts])
    types = [part.counts.dtype for part in parts]
    arrays: dict[str, tuple[Sequence[np.ndarray], np.dtype]] = {
        "indptr.npy": ([np.concatenate(([0], np.cumsum(lengths)))], np.dtype(np.int64)),
        "gene_ids.npy": ([part.gene_ids for part in parts], parts[0].gene_ids.dtype),
        "counts.npy": ([part.counts for part in parts], np.result_type(*types)),
        "depth.npy": ([part.depth for part in parts], np.dtype(np.float32)),
        "hash.npy": ([part.hashes for part in parts], np.dtype(np.uint64)),
        "validation.npy": ([validation], np.dtype(np.uint8)),
    }
    arrays |= {codes_name(column): ([values], np.dtype(np.int32)) for column, values in codes.items()}
    files = {name: _write_array(folder / name, pieces, dtype) for name, (pieces, dtype) in arrays.items()}
    return {"n_cells": len(lengths), "n_tokens": int(lengths.sum()), "files": files}


def _write_array(path: Path, pieces: Sequence[np.ndarray], dtype: np.dtype) -> dict[str, Any]:
    """Write pieces as one .npy file, without joining them in memory."""
    header = io.BytesIO()
    dtype = dtype.newbyteorder("<")
    shape = (sum(len(piece) for piece in pieces),)
    np.lib.format.write_array_header_1_0(
        header, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    digest = hashlib.sha256(header.getvalue())
    with path.open("wb") as file:
        file.write(header.getvalue())
        for piece in pieces:
            values = np.ascontiguousarray(piece, dtype)
            file.write(values.data)
            digest.update(values.data)
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}
