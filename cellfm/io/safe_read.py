"""Safe reading of foreign files, which may be truncated, damaged or malicious."""

import hashlib
import json
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from cellfm.errors import CheckpointError


def read_file(path: Path) -> bytes:
    """The content of a regular file; pipes and devices, which may never end, are not read.

    Raises
    ------
    CheckpointError
        It is missing, is something else, or cannot be read.
    """
    require_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, computed without loading it into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_file(path: Path) -> None:
    """Check that a path is a regular file.

    Raises
    ------
    CheckpointError
        It is missing, or is a folder, a pipe, a device or a link to nothing.
    """
    try:
        found = path.is_file()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
    if not found:
        what = "is no ordinary file" if path.exists() or path.is_symlink() else "is missing"
        raise CheckpointError(f"{path} {what}. Get a new copy.")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises
    ------
    CheckpointError
        There is no such file, or it is not JSON in UTF-8.
    """
    return parse_json(read_file(path), str(path))


def parse_json(text: str | bytes, name: str) -> Any:
    """Parse JSON; the error calls it `name`.

    Raises
    ------
    CheckpointError
        It is not JSON in UTF-8, is nested without end, or has numbers of thousands of digits.
    """
    try:
        return json.loads(text.decode() if isinstance(text, bytes) else text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is not valid JSON: {error}.") from None


def parse_arrays(content: bytes, name: str) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, by name.

    Raises
    ------
    CheckpointError
        It is not a safetensors file, or holds a type that NumPy does not know.
    """
    try:
        return load(content)
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{name} is not a safetensors file: {str(error)[:200]}.") from None


def read_npy(path: Path, *, mapped: bool = False) -> np.ndarray:
    """The array of a .npy file; `mapped` leaves it on the disk.

    Raises
    ------
    CheckpointError
        There is no such file, or it is cut short, holds Python objects, or its header is invalid.
    """
    require_file(path)
    try:
        # Mapped in any case: reading takes the memory that the header promises before it looks at what is there.
        array = np.asarray(np.lib.format.open_memmap(path, mode="r"))
        return array if mapped else array.copy()
    except (OSError, ValueError, TypeError, OverflowError, SyntaxError, tokenize.TokenError) as error:
        raise CheckpointError(
            f"{path} cannot be read as an array: {str(error)[:200] or type(error).__name__}."
        ) from None
    except (MemoryError, RecursionError) as error:  # of NumPy's parser of the header
        raise CheckpointError(f"{path} cannot be read as an array: {type(error).__name__}.") from None
