"""Numbers in sentences: "1 gene", "2 genes"."""


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
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"
