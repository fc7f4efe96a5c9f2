"""Parts of messages: numbers with their nouns ("1 gene", "2 genes"), and what an error of another package says."""

from collections.abc import Sequence


def counted(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun, or with more words that depend on it.

    Examples
    --------
    >>> from cellfm._wording import counted
    >>> counted(1, "gene")
    '1 gene'
    >>> counted(2_000, "cell is", "cells are")
    '2,000 cells are'
    """
    return f"{n:,} {one if n == 1 else many or _plural(one)}"


def joined(names: Sequence[object], shown: int = 4) -> str:
    """Names that are added up; of many the first few, and their number.

    Examples
    --------
    >>> from cellfm._wording import joined
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
    """So many of all, with the verb.

    Examples
    --------
    >>> from cellfm._wording import counted_of
    >>> counted_of(1, 700, "cell", "expresses", "express")
    '1 of 700 cells expresses'
    >>> counted_of(0, 1, "cell")
    '0 of 1 cell are'
    """
    return f"{n:,} of {counted(total, noun)} {one if n == 1 else many}"


def reason_of(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing.

    Examples
    --------
    >>> from cellfm._wording import reason_of
    >>> reason_of(OSError("no such file"))
    'no such file'
    >>> reason_of(EOFError())
    'EOFError'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
