"""Shared by commands on files of cells: the accepted files, and plots of results that have been written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellfm.errors import InputError
from cellfm.io.messages import reason_of

FILES_OF_CELLS = "cells with counts: .h5ad, .h5mu, .zarr, 10x .h5 or folder, .loom, .csv or .tsv (also compressed)"


@contextmanager
def drawing(written: Path) -> Iterator[None]:
    """A block that plots results that have been written; if it fails, the message says that they exist.

    Raises
    ------
    InputError
        The plot failed; the message says that the results exist.
    """
    try:
        yield
    except Exception as error:
        raise InputError(f"{written} is written, but the plot could not be drawn: {reason_of(error)}") from error
