"""Files and folders that are complete or absent: written under a temporary name beside the target, then renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellfm.errors import InputError


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; it takes the name `path` when the block ends well, and is removed otherwise.

    Raises
    ------
    InputError
        `path` cannot be written (no such folder, no permission, disk full); an existing file is not changed.
    """
    path = Path(path)
    with _writing(path), tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        # The suffix stays, because writers choose the format by it.
        partial = Path(folder) / path.name
        yield partial
        os.replace(partial, path)


@contextmanager
def whole_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder to fill; it takes the name `path` when the block ends well.

    Raises
    ------
    InputError
        `path` exists and `overwrite` is false, or cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already. Choose another name or pass overwrite=True.")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
            partial, previous = Path(folder) / "new", Path(folder) / "old"
            partial.mkdir()
            yield partial
            if path.exists():
                os.replace(path, previous)
            try:
                os.replace(partial, path)
            except OSError:
                if previous.exists():
                    os.replace(previous, path)
                raise
            if previous.is_file():
                previous.unlink()
            elif previous.exists():
                shutil.rmtree(previous)


def check_folder(path: str | Path, *, overwrite: bool, kind: str, file: str) -> None:
    """Refuse a folder that cannot be written or must not be replaced, before any long work.

    Parameters
    ----------
    overwrite
        Whether an existing folder of the same type may be replaced; other folders are never replaced.
    kind
        What the folder would hold, for the error, with its article: ``"an annotator"``.
    file
        Name of the file by which such a folder is recognised.

    Raises
    ------
    InputError
        `path` exists and `overwrite` is false, it exists and is something else, or it cannot be written.
    """
    path = Path(path)
    if path.exists():
        if not overwrite:
            raise InputError(f"{path} exists already. Choose another name, or pass overwrite=True to replace it.")
        if not path.is_dir() or (any(path.iterdir()) and not (path / file).exists()):
            raise InputError(f"{path} is not {kind} (it has no {file}), so it is not replaced. Choose another name.")
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise InputError(f"Could not write {path}: {parent}: {error.strerror or error}.") from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"Could not write {path}: {reason}. Nothing was changed.") from error
