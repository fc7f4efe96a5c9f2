"""Read and write MindSpore's ``.ckpt`` files without MindSpore; only the requested tensors are loaded.

The file is a protobuf message ``Checkpoint { repeated Value { tag = 1; TensorProto tensor = 2 } value = 1 }`` with
``TensorProto { repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3 }``; large tensors are split
into several values of the same tag. MindSpore's own reader holds the file twice and stops at 2 GB, two thirds of
which are optimizer state.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cellfm.errors import CheckpointError
from cellfm.io.atomic_file import atomic_file
from cellfm.io.safe_read import require_file

_DTYPES = {
    "Float16": np.float16,
    "Float32": np.float32,
    "Float64": np.float64,
    "Int32": np.int32,
    "Int64": np.int64,
    "Bool": np.bool_,
}
_LENGTH_DELIMITED = 2
_VARINT = 0
_MAX_NAME = 4096
_MAX_DIMENSIONS = 32  # of a NumPy array
_MAX_EXTENT = 1 << 40
_PIECE = 1 << 29
"""Bytes of a tensor in one value; MindSpore reads larger ones in pieces, too."""
_CRC_FOOTER = 17  # b"crc_num" and ten bytes, written when MindSpore is asked for a checksum


@dataclass
class Entry:
    """The position of a tensor in the file."""

    name: str = ""
    type_name: str = ""
    shape: tuple[int, ...] = ()
    pieces: list[tuple[int, int]] = field(default_factory=list)  # (offset, length)

    @property
    def n_bytes(self) -> int:
        return sum(length for _, length in self.pieces)


def list_ckpt(path: Path) -> list[Entry]:
    """Find every tensor of a file; no tensor is read.

    Raises
    ------
    CheckpointError
        As for `read_ckpt`.
    """
    require_file(path)
    with path.open("rb") as file:
        return _list(file, path)


def read_ckpt(path: Path, keep: Callable[[str], bool]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read the tensors whose name passes `keep`.

    Returns
    -------
    The tensors by name, and the names that were skipped.

    Raises
    ------
    CheckpointError
        The file is not a MindSpore checkpoint, or is truncated or damaged.
    """
    tensors: dict[str, np.ndarray] = {}
    passed_over: list[str] = []
    require_file(path)
    with path.open("rb") as file:
        for entry in _list(file, path):
            if keep(entry.name):
                tensors[entry.name] = _read_tensor(file, entry, path)
            else:
                passed_over.append(entry.name)
    return tensors, passed_over


def write_ckpt(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write float32 tensors by name, completely or not at all."""
    with atomic_file(path) as partial, partial.open("wb") as file:
        for name, array in tensors.items():
            content = np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint8).data
            dims = b"".join(b"\x08" + _number(extent) for extent in array.shape)
            head = dims + _delimited(2, b"Float32")
            for start in range(0, max(1, len(content)), _PIECE):
                piece = content[start : start + _PIECE]
                tensor = head + b"\x1a" + _number(len(piece))
                value = _delimited(1, name.encode()) + b"\x12" + _number(len(tensor) + len(piece)) + tensor
                file.write(b"\x0a" + _number(len(value) + len(piece)) + value)
                file.write(piece)


def _delimited(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | _LENGTH_DELIMITED]) + _number(len(content)) + content


def _number(value: int) -> bytes:
    """A varint."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


class _FormatError(Exception):
    """The bytes violate the format."""


def _list(file: BinaryIO, path: Path) -> list[Entry]:
    try:
        return _entries(file, path.stat().st_size)
    except _FormatError as error:
        raise CheckpointError(
            f"{path} is not a complete MindSpore checkpoint: {error}. "
            "It may be cut short by a broken download, damaged, or another type of file."
        ) from None


def _entries(file: BinaryIO, size: int) -> list[Entry]:
    """Find every tensor; joins the pieces of split ones."""
    found: dict[str, Entry] = {}
    position = 0
    while position < size:
        file.seek(position)
        if size - position == _CRC_FOOTER:
            if file.read(7) == b"crc_num":
                break
            file.seek(position)
        number, wire = _tag(file)
        if (number, wire) != (1, _LENGTH_DELIMITED):
            raise _FormatError(f"unexpected field {number} at byte {position:,}")
        length = _varint(file)
        start = file.tell()
        if length > size - start:
            raise _FormatError(f"it ends at byte {size:,}, inside an entry that should reach byte {start + length:,}")
        entry = _value(file, start + length)
        known = found.setdefault(entry.name, entry)
        if known is not entry:
            if (known.shape, known.type_name) != (entry.shape, entry.type_name):
                raise _FormatError(f"two different tensors are named {entry.name!r}")
            known.pieces += entry.pieces
        position = start + length
    if not found:
        raise _FormatError("it contains no tensors")
    return list(found.values())


def _value(file: BinaryIO, end: int) -> Entry:
    entry = Entry()
    for number, length in _fields(file, end):
        if number == 1:
            entry.name = _text(file, length)
        elif number == 2:
            _tensor(file, file.tell() + length, entry)
        else:
            raise _FormatError(f"unexpected field {number} in an entry")
    if not entry.name or not entry.type_name:
        raise _FormatError("an entry has no name or no tensor")
    return entry


def _tensor(file: BinaryIO, end: int, entry: Entry) -> None:
    shape: list[int] = []
    while file.tell() < end:
        number, wire = _tag(file)
        if number == 1 and wire == _VARINT:
            shape.append(_varint(file))
            continue
        length = _length(file, wire, end)
        if number == 2:
            entry.type_name = _text(file, length)
        elif number == 3:
            entry.pieces.append((file.tell(), length))
            file.seek(length, 1)
        else:
            raise _FormatError(f"unexpected field {number} in a tensor")
    if len(shape) > _MAX_DIMENSIONS or max(shape, default=0) > _MAX_EXTENT:
        raise _FormatError(f"a tensor of {len(shape)} dimensions, up to {max(shape):,}, is impossible")
    entry.shape = tuple(shape)


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """Number and length of each length-delimited field up to `end`; the reader of a field consumes it."""
    while file.tell() < end:
        number, wire = _tag(file)
        yield number, _length(file, wire, end)


def _tag(file: BinaryIO) -> tuple[int, int]:
    key = _varint(file)
    return key >> 3, key & 7


def _length(file: BinaryIO, wire: int, end: int) -> int:
    if wire != _LENGTH_DELIMITED:
        raise _FormatError(f"unexpected wire type {wire}")
    length = _varint(file)
    if length > end - file.tell():
        raise _FormatError("a field is longer than the entry that contains it")
    return length


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            raise _FormatError("it ends inside a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise _FormatError("a number is too long")


def _text(file: BinaryIO, length: int) -> str:
    if length > _MAX_NAME:
        raise _FormatError("a name is too long")
    try:
        return file.read(length).decode()
    except UnicodeDecodeError:
        raise _FormatError("a name is not text") from None


def _read_tensor(file: BinaryIO, entry: Entry, path: Path) -> np.ndarray:
    if entry.type_name not in _DTYPES:
        raise CheckpointError(f"{path}: {entry.name!r} has the type {entry.type_name!r}, which cannot be read.")
    dtype = np.dtype(_DTYPES[entry.type_name])
    held = entry.n_bytes
    expected = dtype.itemsize
    for extent in entry.shape:
        expected *= extent
    if held != expected:
        raise CheckpointError(
            f"{path}: {entry.name!r} of shape {entry.shape} needs {expected:,} bytes but has {held:,}; "
            "the file is damaged."
        )
    content = bytearray(held)
    view, filled = memoryview(content), 0
    for offset, length in entry.pieces:
        file.seek(offset)
        if file.readinto(view[filled : filled + length]) != length:  # type: ignore[attr-defined]
            raise CheckpointError(f"{path} ends inside {entry.name!r}.")
        filled += length
    return np.frombuffer(content, dtype).reshape(entry.shape)
