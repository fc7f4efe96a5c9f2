"""The device of MindSpore, and its handling of Ctrl-C and logs."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mindspore as ms

from cellfm.engines.fork import require_threads
from cellfm.errors import InputError
from cellfm.settings import settings


def use_device() -> str:
    """Put MindSpore on the device of `cf.settings.device`; returns its name."""
    require_threads()
    name = settings.device
    available = has_npu()
    if name == "auto":
        name = "Ascend" if available else "CPU"
    if name == "Ascend" and not available:
        raise InputError(
            "cf.settings.device is 'Ascend', but there is no Ascend NPU here that MindSpore can use (is CANN's "
            "set_env.sh sourced?). Use 'CPU' or 'auto'."
        )
    if ms.get_context("device_target") != name:
        try:
            ms.set_device(name)
        except RuntimeError as error:
            raise InputError(
                f"MindSpore already runs on another device in this process and cannot move to {name}: set "
                "cf.settings.device before anything is computed."
            ) from error
    return name


@contextmanager
def computing() -> Iterator[None]:
    """Context manager and decorator in which MindSpore computes and Ctrl-C works as in Python.

    MindSpore repeatedly replaces Python's handler of Ctrl-C by its own, which sends SIGTERM to the process. This would
    end the kernel of a notebook, and the handler would stay after the computation.
    """
    require_threads()
    with _without_warnings():
        yield from _with_interrupts()


def _with_interrupts() -> Iterator[None]:
    interrupt = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(interrupt):
        yield  # only the main thread can set signal handlers
        return

    def heard(_: int, frame: Any) -> None:
        interrupt(signal.SIGINT, frame)

    outermost = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # and nobody else handles SIGTERM
    if outermost:
        signal.signal(signal.SIGTERM, heard)
    try:
        yield
    finally:
        if outermost:
            ms.hal.synchronize()  # operations that are still running would handle Ctrl-C again
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, interrupt)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """A block in which MindSpore logs only errors, even if it was imported before cellfm.

    Its warnings, for instance about a function that is compiled for another shape, do not help users. A level below
    that of warnings was set by somebody who wants to see more, and is kept.
    """
    log = logging.getLogger(f"ME.mindspore.log.{os.getpid()}")
    level = log.level
    if level == logging.WARNING:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def has_npu() -> bool:
    """Whether there is an Ascend NPU that MindSpore can use."""
    # Asking MindSpore loads its NPU libraries, and logs errors if they are missing; without CANN there is no NPU.
    return "ASCEND_HOME_PATH" in os.environ and ms.hal.is_available("Ascend")
