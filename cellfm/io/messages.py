"""Messages: numbers with their nouns ("1 gene", "2 genes"), what another package says, warnings."""

import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from cellfm.errors import DataWarning, InputError

_OF_REFERENCE = ContextVar("of_reference", default=False)
_OPTIONS = re.compile(r"\bcf\.[\w.]+\([^()]*\)|\b(layer|gene_key)=")
"""Options that the reference has for itself; calls of functions, such as cf.pp.recover_counts(adata, layer='raw'), stay
as they are."""


def counted(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun, and optionally further words that depend on it.

    Examples
    --------
    >>> from cellfm.io.messages import counted
    >>> counted(1, "gene")
    '1 gene'
    >>> counted(2_000, "cell is", "cells are")
    '2,000 cells are'
    """
    return f"{n:,} {one if n == 1 else many or _plural(one)}"


def joined(names: Sequence[object], shown: int = 4) -> str:
    """Names joined by plus signs; of many names only the first few and the number of the others.

    Examples
    --------
    >>> from cellfm.io.messages import joined
    >>> joined(["EPRS", "EPRS1"])
    'EPRS + EPRS1'
    >>> joined(["Y_RNA"] * 200)
    'Y_RNA + Y_RNA + Y_RNA + Y_RNA + 196 others'
    """
    named = [str(name) for name in names]
    rest = len(named) - shown
    return " + ".join(named if rest <= 1 else [*named[:shown], f"{rest:,} others"])


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def counted_of(n: int, total: int, noun: str, one: str = "is", many: str = "are") -> str:
    """A part of a total, with noun and verb.

    Examples
    --------
    >>> from cellfm.io.messages import counted_of
    >>> counted_of(1, 700, "cell", "expresses", "express")
    '1 of 700 cells expresses'
    >>> counted_of(0, 1, "cell")
    '0 of 1 cell are'
    """
    return f"{n:,} of {counted(total, noun)} {one if n == 1 else many}"


def reason_of(error: BaseException) -> str:
    """The first line of an error's message, or its type if the message is empty.

    Examples
    --------
    >>> from cellfm.io.messages import reason_of
    >>> reason_of(OSError("no such file"))
    'no such file'
    >>> reason_of(EOFError())
    'EOFError'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def of_reference() -> Iterator[None]:
    """A block in which warnings and errors say that they concern the reference, and name its options.

    ``layer=`` becomes ``reference_layer=``, and ``gene_key=`` becomes ``reference_gene_key=``.
    """
    token = _OF_REFERENCE.set(True)
    try:
        yield
    except InputError as error:
        raise type(error)(with_subject(str(error))) from None
    finally:
        _OF_REFERENCE.reset(token)


def with_subject(message: str) -> str:
    """The message; inside a block of `of_reference` it says that it concerns the reference.

    Examples
    --------
    >>> from cellfm.io.messages import of_reference, with_subject
    >>> with_subject("No counts; pass layer= with some.")
    'No counts; pass layer= with some.'
    >>> with of_reference():
    ...     with_subject("No counts; pass layer= with some.")
    'The reference: No counts; pass reference_layer= with some.'
    """
    if not _OF_REFERENCE.get():
        return message
    text = _OPTIONS.sub(lambda match: f"reference_{match[0]}" if match[1] else match[0], message)
    return f"The reference: {text}"


def warn(message: str) -> None:
    """Warn the user that a result may be poorer than expected; the warning points at the line that called cellfm."""
    frame, depth = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("cellfm."):
        frame, depth = frame.f_back, depth + 1
    warnings.warn(with_subject(message), DataWarning, stacklevel=depth)
