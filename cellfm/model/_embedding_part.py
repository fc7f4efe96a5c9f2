"""Parts of an embedding: several jobs embed a share of the cells each, into one file a part, and these are joined."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cellfm.cells.matrix import BLOCK_CELLS
from cellfm.errors import CheckpointError, InputError
from cellfm.io.atomic_file import atomic_file
from cellfm.io.messages import counted
from cellfm.io.safe_read import parse_json, require_file

PART_SUFFIXES = (".safetensors",)
_METADATA = "cellfm_embedding_part"
_DTYPES = {"embedding": "F32", "fingerprints": "U64"}
_AGAIN = "Make it again with cellfm embed --part."


@dataclass(frozen=True)
class Part:
    """One of several parts of the work: ``Part(1, 4)`` is the first of four."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read ``I/N``, where I counts from 1.

        Raises
        ------
        InputError
            The text has another form, or I is not from 1 to N.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise InputError(f"A part is written I/N, such as 1/4 to 4/4 for four of them; found {text!r}.")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def span(self, n_cells: int) -> slice:
        """Its cells: whole blocks, so that each cell is computed beside the same cells as in one run.

        A part is empty if there are more parts than blocks.
        """
        n_blocks = -(-n_cells // BLOCK_CELLS)
        first, last = (number * n_blocks // self.of * BLOCK_CELLS for number in (self.number - 1, self.number))
        return slice(min(first, n_cells), min(last, n_cells))


@dataclass(frozen=True)
class EmbeddingPart:
    """A file with the embeddings of one part of the cells; the arrays stay on the disk."""

    path: Path
    part: Part
    model: str
    """The name of the model, which may be another path for each job."""
    origin: Mapping[str, Mapping[str, Any]]
    """What all parts of an embedding share: ``table`` (see `table_facts`), ``options`` and ``record``."""
    d_model: int

    @property
    def span(self) -> slice:
        return self.part.span(self.origin["table"]["n_cells"])

    @classmethod
    def open(cls, path: Path) -> "EmbeddingPart":
        """Read what a file says about itself, and check that it is complete.

        Raises
        ------
        CheckpointError
            It is damaged, or is something else.
        """
        with _opened(path) as file:
            described, _ = _description(file, path)
            if set(file.keys()) != set(_DTYPES):
                raise CheckpointError(f"{path} was not made by cellfm embed --part.")
            slices = {name: file.get_slice(name) for name in _DTYPES}
            dtypes = {name: found.get_dtype() for name, found in slices.items()}
            shapes = {name: tuple(found.get_shape()) for name, found in slices.items()}
        facts = parse_json(described, str(path))
        try:
            origin = {name: dict(facts["origin"][name]) for name in ("table", "options", "record")}
            n_cells, d_model = shapes["embedding"]
            found = cls(path, Part.parse(facts["part"]), str(facts["model"]), origin, d_model)
            span = (facts["start"], facts["stop"])
            sound = span == (found.span.start, found.span.stop) and n_cells == found.span.stop - found.span.start
        except (KeyError, TypeError, ValueError, AttributeError):
            sound = False
        if not sound or dtypes != _DTYPES or shapes["fingerprints"] != (n_cells,):
            raise CheckpointError(f"{path} is damaged: its arrays are not those of a part. {_AGAIN}")
        return found

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """The embeddings, (n_cells, d_model) float32, and the fingerprints, (n_cells,) uint64.

        Raises
        ------
        CheckpointError
            The file is damaged.
        """
        with _opened(self.path) as file:
            described, checksum = _description(file, self.path)
            embedding, fingerprints = file.get_tensor("embedding"), file.get_tensor("fingerprints")
        if checksum != _sha256(described, embedding, fingerprints):
            raise CheckpointError(f"{self.path} is damaged: its checksum differs. {_AGAIN}")
        return embedding, fingerprints


def write_part(
    path: Path,
    part: Part,
    embedding: np.ndarray,
    fingerprints: np.ndarray,
    *,
    model: str,
    origin: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write the file of a part, whole or not at all.

    Raises
    ------
    InputError
        It cannot be written.
    """
    span = part.span(origin["table"]["n_cells"])
    facts = json.dumps(
        {"part": str(part), "start": span.start, "stop": span.stop, "model": model, "origin": origin}, default=int
    )
    # In one text, because safetensors writes several in any order.
    sealed = json.dumps([facts, _sha256(facts, embedding, fingerprints)])
    content = save({"embedding": embedding, "fingerprints": fingerprints}, {_METADATA: sealed})
    with atomic_file(path) as partial:
        partial.write_bytes(content)  # by Python, which notices a full disk


def join_parts(parts: Sequence[EmbeddingPart]) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings of all cells, (n_cells, d_model) float32, and their fingerprints, (n_cells,) uint64.

    Raises
    ------
    InputError
        Parts differ in their origin, or one is missing or is there twice; the message says which.
    """
    first = parts[0]
    for other in parts[1:]:
        _require_same(first, other)
    by_number: dict[int, EmbeddingPart] = {}
    for found in sorted(parts, key=lambda found: found.part.number):
        if (same := by_number.setdefault(found.part.number, found)) is not found:
            raise InputError(f"Part {found.part} was given twice: {same.path} and {found.path}. Give each part once.")
    if missing := [f"{number}/{first.part.of}" for number in range(1, first.part.of + 1) if number not in by_number]:
        raise InputError(
            f"{counted(len(missing), 'part is', 'parts are')} missing of {first.part.of:,}: {_listed(missing)}. Make "
            "the missing parts with cellfm embed --part, and join all of them."
        )
    embedding = np.empty((first.origin["table"]["n_cells"], first.d_model), np.float32)
    fingerprints = np.empty(len(embedding), np.uint64)
    for found in by_number.values():
        embedding[found.span], fingerprints[found.span] = found.read()
    return embedding, fingerprints


def require_table(part: EmbeddingPart, table: Mapping[str, Any], name: object) -> None:
    """Check that a part was made from a table of cells.

    Raises
    ------
    InputError
        It was made from another one.
    """
    if differing := _differing(part.origin["table"], table):
        raise InputError(f"{part.path} was made from other cells than those of {name}: {differing}.")


def _require_same(one: EmbeddingPart, other: EmbeddingPart) -> None:
    if one.part.of != other.part.of:
        raise InputError(
            f"{one.path} is part {one.part}, and {other.path} is part {other.part}; all parts must be of one set."
        )
    groups = {
        "other cells": "table",
        "other options": "options",
        "another model, other genes or another seed": "record",
    }
    for words, group in groups.items():
        if differing := _differing(one.origin[group], other.origin[group]):
            raise InputError(f"{other.path} was made from {words} than {one.path}: {differing}.")
    if one.d_model != other.d_model:
        raise CheckpointError(f"{other.path} is damaged: its embeddings have another width than the others. {_AGAIN}")


def _description(file: Any, path: Path) -> tuple[str, str]:
    """The facts of a part as JSON, and the checksum of all of it."""
    found = parse_json((file.metadata() or {}).get(_METADATA, "null"), str(path))
    if not isinstance(found, list) or [type(text) for text in found] != [str, str]:
        raise CheckpointError(f"{path} was not made by cellfm embed --part.")
    return found[0], found[1]


def _sha256(facts: str, *arrays: np.ndarray) -> str:
    digest = hashlib.sha256(facts.encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The facts that differ, with their values if these are short; empty if none does."""
    names = [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]
    return _listed([f"{name} ({_short(one.get(name))} and {_short(other.get(name))})" for name in names])


def _short(fact: object) -> str:
    return str(fact)[:12]


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file; its length is checked as it is opened."""
    require_file(path)
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except CheckpointError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path} cannot be read ({str(error)[:200]}). {_AGAIN}") from None
