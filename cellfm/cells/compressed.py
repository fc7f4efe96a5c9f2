"""Files that are compressed by gzip, bzip2 or xz: what lies inside, and unpacking it into a file that is removed."""

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
"""What reading a compressed file raises where it is cut short or damaged."""
_OPENERS: dict[bytes, tuple[str, Any]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ\x00": ("xz", lzma.open),
}
_KEPT_FREE = 1 << 28  # bytes of the disk that unpacking leaves alone
_PIECE = 1 << 24


def compression(path: Path) -> str | None:
    """What a file is compressed by, told by its first bytes; None where it is not."""
    with path.open("rb") as file:
        head = file.read(6)
    return next((name for magic, (name, _) in _OPENERS.items() if head.startswith(magic)), None)


def opened(path: Path) -> IO[bytes]:
    """A file as it is, or what lies in it where it is compressed, whatever its name."""
    name = compression(path)
    opener = next((opener for known, opener in _OPENERS.values() if known == name), open)
    return opener(path, "rb")


def first_bytes(path: Path, n: int) -> bytes:
    """The first bytes of a file, or of what lies in it where it is compressed.

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
    """What lies in a compressed file, as a file of its own, which is removed in the end.

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
                            "more room."
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
