"""An embedding saved in pieces, so that interrupted runs can continue."""

import io
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from cellfm.cells.identity import cells_sha256
from cellfm.cells.input import CellInput
from cellfm.errors import CheckpointError, InputError
from cellfm.io.atomic_file import atomic_file
from cellfm.io.messages import counted
from cellfm.io.progress import progress
from cellfm.io.safe_read import read_json, read_npy
from cellfm.model import CellFM
from cellfm.model._embed import embed_spans

PIECE_CELLS = 8192
_FACTS = "pieces.json"


class EmbeddingCheckpoint:
    """The folder that holds the finished pieces of one embedding.

    Parameters
    ----------
    folder
        Created if it does not exist.
    model, cells, random_state
        The origin of the embedding; a folder can only continue with the same.
    of
        The cells to embed, if not all.

    Raises
    ------
    InputError
        The folder holds pieces of another embedding or other files, or cannot be written.
    """

    def __init__(
        self, folder: str | Path, model: CellFM, cells: CellInput, random_state: int, of: slice | None = None
    ) -> None:
        self.folder = Path(folder)
        self.model, self.cells, self.random_state = model, cells, random_state
        n_cells = cells.counts.n_cells
        self.start: int = 0 if of is None else of.start
        self.stop: int = n_cells if of is None else of.stop
        facts = {name: fact for name, fact in cells.facts(model, random_state).items() if name != "model"}
        facts |= {"n_cells": n_cells, "piece_cells": PIECE_CELLS, "cells_sha256": cells_sha256(cells.counts)}
        self._claim(facts if of is None else facts | {"start": self.start, "stop": self.stop})
        self._verified: set[int] = set()  # pieces of the same cells

    @property
    def n_pieces(self) -> int:
        return _n_pieces(self.stop - self.start)

    def missing(self) -> list[int]:
        return [piece for piece in range(self.n_pieces) if not self._path(piece).exists()]

    def compute(self, *, batch_size: int | None = None) -> None:
        """Compute the missing pieces; each is saved when it is complete.

        Raises
        ------
        InputError
            The counts of cells of a finished piece have changed since, or it is damaged.
        """
        for piece in range(self.n_pieces):
            if self._path(piece).exists():
                self._verify(piece)
        missing = {self._span(piece).start: piece for piece in self.missing()}
        spans = [self._span(piece) for piece in missing.values()]
        with progress(sum(span.stop - span.start for span in spans), "embedding", "cells") as bar:
            for span, *found in embed_spans(
                self.model, self.cells, spans, batch_size=batch_size, random_state=self.random_state, bar=bar
            ):
                piece = missing[span.start]
                # The embedding is written last: if it exists, the piece is complete.
                for array, path in zip(reversed(found), (self._known_path(piece), self._path(piece)), strict=True):
                    with atomic_file(path) as partial:
                        _save(partial, array)
                self._verified.add(piece)

    def joined(self) -> tuple[np.ndarray, np.ndarray]:
        """The embeddings of the cells, (n_cells, d_model) float32, and their fingerprints, (n_cells,) uint64.

        Raises
        ------
        InputError
            Pieces are missing or damaged, or the counts of their cells have changed since.
        """
        if missing := self.missing():
            raise InputError(
                f"{counted(len(missing), 'piece is', 'pieces are')} missing of the {self.n_pieces:,} of {self.folder}: "
                f"{_ranges(missing)}. Another process may have removed the folder; run the same command again."
            )
        embedding = np.empty((self.stop - self.start, self.model.config.d_model), np.float32)
        fingerprints = np.empty(len(embedding), np.uint64)
        for piece in range(self.n_pieces):
            self._verify(piece)
            span = self._span(piece)
            own = slice(span.start - self.start, span.stop - self.start)
            embedding[own] = self._read(self._path(piece), embedding[own])
            fingerprints[own] = self._read(self._known_path(piece), fingerprints[own])
        return embedding, fingerprints

    def _verify(self, piece: int) -> None:
        """Check once that the counts of a piece's cells have not changed."""
        if piece in self._verified:
            return
        span = self._span(piece)
        found = np.concatenate([block for _, block in self.cells.fingerprints(span)])
        if n_other := int((self._read(self._known_path(piece), found) != found).sum()):
            raise InputError(
                f"{self.folder} contains pieces of other cells: the counts of {n_other:,} of the cells {span.start:,} "
                f"to {span.stop - 1:,} have changed since they were embedded. Remove the folder to start again, or "
                "choose another."
            )
        self._verified.add(piece)

    def _read(self, path: Path, like: np.ndarray) -> np.ndarray:
        try:
            array = read_npy(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error} Remove the piece and run again.") from None
        if array.shape != like.shape or array.dtype != like.dtype:
            raise InputError(f"{path} contains {array.dtype} of shape {array.shape}. Remove the piece and run again.")
        return array

    def _path(self, piece: int) -> Path:
        return _path(self.folder, piece)

    def _known_path(self, piece: int) -> Path:
        return _known_path(self.folder, piece)

    def _span(self, piece: int) -> slice:
        start = self.start + piece * PIECE_CELLS
        return slice(start, min(start + PIECE_CELLS, self.stop))

    def _claim(self, facts: dict[str, str | int | None]) -> None:
        path = self.folder / _FACTS
        if not path.exists():
            self._begin(path, facts)
        found = read_json(path)
        if not isinstance(found, dict):
            raise CheckpointError(f"{path} is damaged. Remove {self.folder} to start again.")
        if other := sorted(name for name in facts.keys() | found.keys() if facts.get(name) != found.get(name)):
            raise InputError(
                f"{self.folder} contains pieces of another embedding: {', '.join(other)} differ. Remove the folder to "
                "start again, or choose another."
            )

    def _begin(self, path: Path, facts: dict[str, str | int | None]) -> None:
        filled = self.folder.is_dir() and any(not file.name.startswith(".") for file in self.folder.iterdir())
        if path.exists():  # another job has started meanwhile
            return
        if filled:
            raise InputError(f"{self.folder} contains something else; choose a new or empty folder.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be created: {error.strerror or error}.") from error
        with atomic_file(path) as partial:
            partial.write_text(json.dumps(facts, indent=1))


def remove_pieces(folder: Path, n_cells: int) -> None:
    """Remove the pieces of a number of cells and their folder, and nothing else."""
    pieces = range(_n_pieces(n_cells))
    files = [path(folder, piece) for piece in pieces for path in (_path, _known_path)]
    for path in (*files, folder / _FACTS):
        path.unlink(missing_ok=True)
        for left in folder.glob(f".{path.name}-*"):  # by a process that was killed while writing
            shutil.rmtree(left, ignore_errors=True)
    with suppress(OSError):  # it contains something else, or another process has removed it
        folder.rmdir()


def _n_pieces(n_cells: int) -> int:
    return -(-n_cells // PIECE_CELLS)


def _path(folder: Path, piece: int) -> Path:
    return folder / f"{piece:06d}.npy"


def _known_path(folder: Path, piece: int) -> Path:
    return folder / f"{piece:06d}.fingerprints.npy"


def _save(path: Path, array: np.ndarray) -> None:
    """Write a .npy file through a Python file, because NumPy does not notice a full disk."""
    content = io.BytesIO()
    np.save(content, array)
    path.write_bytes(content.getbuffer())


def _ranges(numbers: Sequence[int], most: int = 8) -> str:
    """Numbers as text, with consecutive ones joined as ranges."""
    groups = np.split(np.asarray(numbers), np.flatnonzero(np.diff(numbers) > 1) + 1)
    said = [str(group[0]) if len(group) == 1 else f"{group[0]} to {group[-1]}" for group in groups[:most]]
    return ", ".join(said) + (" ..." if len(groups) > most else "")
