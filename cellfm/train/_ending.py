"""Early ends of training: errors and stops, and their exit codes."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cellfm.config import TrainConfig
from cellfm.engines import DeviceMemoryError
from cellfm.errors import TrainingError


class TrainingStopped(KeyboardInterrupt):
    """SIGTERM or Ctrl-C ended the training after a checkpoint; the same call continues from there."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


@contextmanager
def clear_memory_errors(config: TrainConfig, min_chunks: int, kept: str = "") -> Iterator[None]:
    """A block of training; if the device runs out of memory, the error says what would fit.

    Parameters
    ----------
    min_chunks
        Number of chunks of the largest cell, which is the minimum for `n_chunks`.
    kept
        Message about what is not lost.

    Raises
    ------
    TrainingError
        The device ran out of memory.
    """
    try:
        yield
    except DeviceMemoryError as error:
        n, batch_size = config.n_chunks, config.batch_size
        fitting = max(error.fitting(n), min_chunks)
        advice = "Lower train_genes, or set recompute = true or precision = 'bfloat16'"
        if fitting < n:
            fewer = max(1, min(batch_size * fitting // n, fitting // min_chunks))
            advice = (
                f"n_chunks = {fitting} should fit, and gives the same results: a batch that needs more is accumulated. "
                f"Where n_chunks cannot be set, lower the batch size, to {fewer}"
            )
        message = f"{error} It computed n_chunks = {n} at once, for batch_size = {batch_size}. {advice}."
        raise TrainingError(f"{message} {kept}".rstrip()) from error


@contextmanager
def stop_signals(heard: Callable[[int, Any], object]) -> Iterator[None]:
    """A block in which SIGTERM and Ctrl-C do nothing but call `heard`; only the main thread gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, heard) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
