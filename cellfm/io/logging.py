"""The logger of the package. By default it shows only warnings; `cf.settings.verbosity` changes this."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

logger = logging.getLogger("cellfm")

LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}


@contextmanager
def once() -> Iterator[None]:
    """A block in which each message is logged only once, for tools that read a file twice."""
    logged: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        known = record.levelno == logging.INFO and text in logged
        logged.add(text)
        return not known

    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)


class _StderrHandler(logging.StreamHandler):
    """Writes to the current stderr, which notebooks and tests replace."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        """Stays with stderr."""


def set_level(name: str) -> None:
    """Show messages of this level and above on stderr."""
    logger.setLevel(LEVELS[name])
    if not logger.handlers:
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
