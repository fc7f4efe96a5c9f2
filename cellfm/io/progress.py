"""Progress of long work: a bar on a terminal and in a notebook, otherwise one line a minute."""

import logging
import sys
import warnings
from typing import Any, TextIO

from tqdm import TqdmWarning, tqdm
from tqdm.auto import tqdm as bar

from cellfm.io.logging import logger

_PATIENCE = 3.0  # seconds before a bar appears
_MINUTE = 60.0
# In brackets, as lines that `train._workers` does not pass on from the logs of the processes that it waits for.
_LINE = "[{desc}] {n_fmt} of {total_fmt} {unit} ({percentage:.0f} %), {elapsed} elapsed, {remaining} left{postfix}"


class LogLines(tqdm):  # type: ignore[misc]
    """Progress in a file, a pipe or the log of a job, where lines cannot be overwritten.

    Writes one line a minute, and nothing if the work takes less.
    """

    def __init__(self, total: int, **options: Any) -> None:
        super().__init__(total=total, bar_format=_LINE, miniters=1, mininterval=_MINUTE, delay=_MINUTE, **options)
        self._line_at: float | None = None

    def display(self, *_: Any, **__: Any) -> bool:
        since = self.start_t if self._line_at is None else self._line_at
        if self._time() - since < _MINUTE:
            return False
        self._line_at = self._time()
        self.fp.write(f"{self}\n")
        self.fp.flush()
        return True

    def clear(self, *_: Any, **__: Any) -> None:
        """Lines stay."""

    def close(self) -> None:
        self.delay = float("inf")  # tqdm then takes it for one that was never shown, and writes nothing
        super().close()


def progress(total: int, description: str, unit: str) -> tqdm:
    """Progress over `total` units; use it as a context manager and call its `update`."""
    silent = not logger.isEnabledFor(logging.WARNING) or sys.stderr is None
    if not _is_live(sys.stderr):
        return LogLines(total, desc=description, unit=unit, leave=False, disable=silent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)  # Jupyter without widgets gets the text bar
        return bar(total=total, desc=description, unit=unit, delay=_PATIENCE, leave=False, disable=silent)


def _is_live(stream: TextIO | None) -> bool:
    """Whether a line can be overwritten: on a terminal, or in a notebook, whose stream comes from ipykernel."""
    return stream is not None and (stream.isatty() or type(stream).__module__.startswith("ipykernel"))
