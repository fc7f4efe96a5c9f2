"""Files compressed by gzip, bzip2 or xz: reading their first bytes, and unpacking them into temporary files."""

import bz2
import gzip
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cellfm.errors import InputError

UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""Errors when a compressed file is truncated or damaged."""
_OPENERS: dict[bytes, tuple[str, Any]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ\x00": ("xz", lzma.open),
}
_KEPT_FREE = 1 << 28  # bytes of the disk that unpacking leaves alone
_PIECE = 1 << 24


def compression(path: Path) -> str | None:
    """The compression of a file, by its first bytes; None if it is not compressed."""
    with path.open("rb") as file:
        head = file.read(6)
    return next((name for magic, (name, _) in _OPENERS.items() if head.startswith(magic)), None)


def opened(path: Path) -> IO[bytes]:
    """A file, opened and decompressed if necessary, whatever its name."""
    name = compression(path)
    opener = next((opener for known, opener in _OPENERS.values() if known == name), open)
    return opener(path, "rb")


def first_bytes(path: Path, n: int) -> bytes:
    """The first bytes of a file, after decompression if necessary.

    Raises
    ------
    InputError
        It is compressed and cannot be unpacked.
    """
    try:
        with opened(path) as file:
            return file.read(n)
    except UNREADABLE as error:
        if compression(path) is None:
            raise
        raise _damaged(path, error) from error


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The content of a compressed file as a temporary file, which is removed at the end.

    Raises
    ------
    InputError
        It cannot be unpacked, or the disk is too small for it.
    """
    with tempfile.TemporaryDirectory(prefix="cellfm-") as folder:
        whole = Path(folder) / (path.stem if path.suffix.lower() in (".gz", ".bz2", ".xz") else path.name)
        try:
            with opened(path) as source, whole.open("wb") as target:
                while piece := source.read(_PIECE):
                    if shutil.disk_usage(folder).free - len(piece) < _KEPT_FREE:
                        raise InputError(
                            f"{path} does not fit on the disk when unpacked ({folder}). Set TMPDIR to a folder with "
                            "more space."
                        )
                    target.write(piece)
        except UNREADABLE as error:
            raise _damaged(path, error) from error
        yield whole


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} is compressed by {compression(path)} and cannot be unpacked: {error}. It may be cut short or damaged; "
        "get a new copy."
    )
