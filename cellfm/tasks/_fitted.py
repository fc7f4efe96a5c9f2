"""Save and load fitted objects: a folder with facts (JSON) and arrays (safetensors), with checksum and format."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import pandas as pd
from safetensors.numpy import save

from cellfm.errors import CheckpointError, InputError, InputTypeError
from cellfm.io.atomic_file import check_folder, whole_folder
from cellfm.io.safe_read import parse_arrays, read_file, read_json
from cellfm.model import CellFM

Arrays = dict[str, np.ndarray]
Fitted = TypeVar("Fitted", bound="Loadable")
_FACTS_CHECKSUM = "facts_sha256"
"""Entry of the facts with the SHA-256 of the others; files from before it have none."""


@dataclass(frozen=True)
class FittedFiles:
    """Description of one type of fitted object on disk.

    Parameters
    ----------
    kind
        Its name in messages, with article: ``"an annotator"``.
    name
        Its name without article.
    facts, arrays
        Names of the two files.
    checksum
        Entry of the facts with the SHA-256 of the arrays.
    format
        Version of the format; others are refused.
    """

    kind: str
    name: str
    facts: str
    arrays: str
    checksum: str = "arrays_sha256"
    format: int = 1

    def write(
        self,
        folder: Path,
        facts: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        *,
        overwrite: bool,
        also: Callable[[Path], None] | None = None,
    ) -> None:
        """Write a folder, completely or not at all; `also` may add to it.

        Raises
        ------
        InputError
            As `check_target`.
        """
        self.check_target(folder, overwrite=overwrite)
        content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        checksum = hashlib.sha256(content).hexdigest()
        entries = {"format": self.format, "cellfm_version": version("cellfm"), self.checksum: checksum, **facts}
        entries[_FACTS_CHECKSUM] = _sha256_of(entries)
        with whole_folder(folder, overwrite=overwrite) as partial:
            (partial / self.arrays).write_bytes(content)
            (partial / self.facts).write_text(json.dumps(entries, indent=1) + "\n")
            if also is not None:
                also(partial)

    def check_target(self, folder: Path, *, overwrite: bool) -> None:
        """Refuse a folder that cannot be written or must not be replaced, before any long work.

        Raises
        ------
        InputError
            The folder exists and `overwrite` is false, it exists and holds something else, or it cannot be written.
        """
        check_folder(folder, overwrite=overwrite, kind=self.kind, file=self.facts)

    @contextmanager
    def read(self, folder: Path) -> Iterator[tuple[dict[str, Any], Arrays]]:
        """Facts and arrays of a folder, from which the block creates the object; entries that do not fit raise an
        error.

        Raises
        ------
        InputError
            The folder is of another type.
        CheckpointError
            A file is missing or damaged, or of another version.
        """
        facts = self._read_facts(folder)
        path = folder / self.arrays
        content = read_file(path)
        if hashlib.sha256(content).hexdigest() != facts[self.checksum]:
            raise CheckpointError(f"{path} is damaged or incomplete: its checksum is not the one in {self.facts}.")
        try:
            yield facts, parse_arrays(content, str(path))
        except InputError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise CheckpointError(f"{folder} is not a {self.name} of this version of cellfm: {error}.") from error

    def _read_facts(self, folder: Path) -> dict[str, Any]:
        path = folder / self.facts
        if not path.exists():
            raise InputError(f"{folder} is not {self.kind}: it contains no {self.facts}.")
        facts = read_json(path)
        if not isinstance(facts, dict) or not {"format", self.checksum, "model"} <= facts.keys():
            raise CheckpointError(f"{path} lacks entries: it was not written by cellfm, or is incomplete.")
        if facts["format"] != self.format:
            raise CheckpointError(
                f"{path} has format {facts['format']!r}; this version of cellfm reads format {self.format}."
            )
        if facts.get(_FACTS_CHECKSUM, own := _sha256_of(facts)) != own:
            raise CheckpointError(f"{path} is damaged or was changed: its entries are not those that were saved.")
        return facts


class Loadable(Protocol):
    """A type of fitted object that `load` reads from a folder."""

    @classmethod
    def load(cls, path: str | Path) -> Self: ...


def resolve_fitted(given: Fitted | str | Path, fitted: type[Fitted], tool: str) -> Fitted:
    """The object, or the one loaded from a folder; `tool` is the function that fits such objects.

    Raises
    ------
    InputTypeError
        It is neither.
    """
    if isinstance(given, fitted):
        return given
    if isinstance(given, str | Path):
        return fitted.load(given)
    raise InputTypeError(
        f"Expected the result of {tool} or the folder in which it was saved, found {type(given).__name__}."
    )


def require_same_model(
    folder: Path,
    name: str,
    facts: Mapping[str, str],
    model: CellFM,
    *,
    why: str = ": their embeddings have nothing in common",
) -> None:
    """Check that a model is the one of the fit, which went by `name`, by the hashes among the facts.

    Raises
    ------
    CheckpointError
        It is a different model; `why` ends the message.
    """
    if (model.weights_hash, model.vocab.hash) != (facts["weights_sha256"], facts["vocabulary_sha256"]):
        raise CheckpointError(
            f"{folder} was fitted with a different model ({name!r}, weights {facts['weights_sha256'][:12]}) than "
            f"{model.name!r} (weights {model.weights_hash[:12]}){why}."
        )


def require_use(holds: bool, what: str) -> None:
    """Refuse entries or arrays that cannot be used; only in the block of `FittedFiles.read`, which tells the folder.

    Raises
    ------
    ValueError
        It does not hold.
    """
    if not holds:
        raise ValueError(f"{what} do not fit the rest")


def texts_of(values: Any) -> tuple[str, ...]:
    """A list of str as a tuple.

    Raises
    ------
    TypeError
        It is something else.
    """
    if not (isinstance(values, list) and all(isinstance(value, str) for value in values)):
        raise TypeError(f"expected a list of names, found {str(values)[:60]}")
    return tuple(values)


def table_facts(table: pd.DataFrame) -> dict[str, Any]:
    """A table for JSON."""
    return json.loads(table.to_json(orient="split", index=False, double_precision=15))


def table_of(facts: Mapping[str, Any]) -> pd.DataFrame:
    """The table that `table_facts` was given."""
    return pd.DataFrame(facts["data"], columns=facts["columns"])


def _sha256_of(facts: Mapping[str, Any]) -> str:
    others = {name: value for name, value in facts.items() if name != _FACTS_CHECKSUM}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def part_of(arrays: Arrays, prefix: str) -> Arrays:
    """Arrays whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
