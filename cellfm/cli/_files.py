"""What commands on files of cells share: which files they take, and pictures of what is written already."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellfm.errors import InputError
from cellfm.io.messages import reason_of

FILES_OF_CELLS = "cells with counts: .h5ad, .h5mu, .zarr, 10x .h5 or folder, .loom, .csv or .tsv (also compressed)"


@contextmanager
def drawing(written: Path) -> Iterator[None]:
    """A block that draws results, which are in a file already, whatever goes wrong with the picture.

    Raises
    ------
    InputError
        Something does; the message says that the results are there.
    """
    try:
        yield
    except Exception as error:
        raise InputError(f"{written} is written, but the plot could not be drawn: {reason_of(error)}") from error
