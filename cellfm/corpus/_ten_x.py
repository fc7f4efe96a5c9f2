"""Read matrices in Matrix Market text by rows, through temporary files, if they are sorted as by 10x Genomics."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellfm.cells.compressed import UNREADABLE, opened
from cellfm.cells.read_10x import TenXFolder, TenXRows, read_head
from cellfm.errors import InputError

_CHUNK = 4_000_000  # number of lines of text at once


class _NotByCellError(Exception):
    """The entries are not sorted by cell."""


def open_mtx(folder: Path, stack: ExitStack) -> TenXRows | None:
    """Open a 10x folder: the text is read once, in pieces, into files that are removed when the input is closed.

    None if its entries are not sorted by cell, as 10x Genomics writes them; it then has to be loaded completely.
    """
    tables = TenXFolder.open(folder)
    if tables.is_turned:
        return None
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cellfm-")))
    try:
        with opened(tables.matrix) as file:
            shape = read_head(file, tables.matrix)
            rows = _store(file, tables.matrix, scratch, shape)
    except _NotByCellError:
        return None
    except (*UNREADABLE, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{tables.matrix} cannot be read: {error}. It may be cut short or damaged; get a new copy."
        ) from error
    return TenXRows(*rows, (shape[1], shape[0]), tables.obs, tables.var)


def _store(
    file: Any, matrix: Path, scratch: Path, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, genes and starts of the cells, as memory maps; entries must be sorted by cell, as 10x writes them."""
    per_cell = np.zeros(shape[1], np.int64)
    last = found = 0
    names = ("data", "indices")
    with (scratch / names[0]).open("wb") as data, (scratch / names[1]).open("wb") as indices:
        for chunk in _chunks(file):
            if chunk.shape[1] != 3 or chunk[2].isna().any():
                raise ValueError("a line does not contain gene, cell and count")
            cells, genes = chunk[1].to_numpy(np.int64), chunk[0].to_numpy(np.int32) - 1
            if not len(cells):
                continue
            if cells.min() < 1 or cells.max() > shape[1] or genes.min() < 0 or genes.max() >= shape[0]:
                raise InputError(f"{matrix}: an entry lies outside of {shape[0]:,} genes x {shape[1]:,} cells")
            if cells[0] < last or (np.diff(cells) < 0).any():
                raise _NotByCellError
            last = int(cells[-1])
            found += len(cells)
            per_cell += np.bincount(cells - 1, minlength=shape[1])
            data.write(chunk[2].to_numpy(np.float32).tobytes())
            indices.write(genes.tobytes())
    if found != shape[2]:
        raise InputError(f"{matrix} is cut short: {found:,} entries of {shape[2]:,}. Get a new copy.")
    types = (np.float32, np.int32)
    maps = [
        np.memmap(scratch / name, dtype, "r") if found else np.zeros(0, dtype)
        for name, dtype in zip(names, types, strict=True)
    ]
    return maps[0], maps[1], np.concatenate(([0], np.cumsum(per_cell)))


def _chunks(file: Any) -> Iterator[pd.DataFrame]:
    try:
        yield from pd.read_csv(file, sep=r"\s+", header=None, chunksize=_CHUNK)
    except pd.errors.EmptyDataError:
        return
