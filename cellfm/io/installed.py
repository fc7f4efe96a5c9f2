"""Checks whether an engine is installed and usable, and says how to install MindSpore."""

import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from cellfm.errors import InputError, MissingPackageError

BACKENDS = ("auto", "jax", "mindspore")
NEWEST_PYTHON = (3, 12)
"""The newest Python that MindSpore 2.10 has wheels for."""


def has_mindspore() -> bool:
    """Whether MindSpore is installed; imports nothing."""
    return find_spec("mindspore") is not None


def require_mindspore(what: str = "This") -> None:
    """Check that MindSpore is installed with a NumPy version that it supports; imports nothing.

    Parameters
    ----------
    what
        What needs it, the subject of the message.

    Raises
    ------
    MissingPackageError
        It is not installed, or NumPy has version 2.
    """
    if not has_mindspore():
        raise MissingPackageError(f"{what} needs MindSpore, which is not installed. {how_to_install()}")
    try:
        numpy = version("numpy")
    except PackageNotFoundError:  # what is missing then says so itself
        return
    if int(numpy.split(".")[0]) >= 2:
        raise MissingPackageError(
            f"MindSpore 2.10 needs NumPy 1, but NumPy {numpy} is installed: its results cannot be trusted. "
            "Install with: pip install 'cellfm[mindspore]', preferably in a separate environment."
        )


def require_engine(backend: str) -> None:
    """Refuse a backend that does not exist or is not installed, before any work.

    Raises
    ------
    InputError
        No such backend.
    MissingPackageError
        Its engine is not installed; the message names the extra that installs it.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, not {backend!r}.")
    if backend == "mindspore":
        require_mindspore("backend='mindspore'")


def how_to_install() -> str:
    """How to install MindSpore with this Python, as a sentence for errors."""
    if sys.version_info[:2] <= NEWEST_PYTHON:
        return "Install it with: pip install 'cellfm[mindspore]' (it needs NumPy 1)."
    here, newest = ("{}.{}".format(*numbers[:2]) for numbers in (sys.version_info, NEWEST_PYTHON))
    return (
        f"MindSpore 2.10 has no wheel for Python {here}, so that pip cannot install it here: make an environment with "
        f"Python {newest} or 3.11, and in it pip install 'cellfm[mindspore]'."
    )
