"""Write results without interruption: Ctrl-C and other threads wait until the block ends."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_writing = threading.RLock()


@contextmanager
def defer_interrupt() -> Iterator[None]:
    """Run a short block that writes to the user's data: Ctrl-C takes effect after it, and threads run it one at a
    time.
    """
    with _writing:
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(before):
            yield  # only the main thread receives Ctrl-C
            return
        held = []
        signal.signal(signal.SIGINT, lambda *heard: held.append(heard))
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            if held:
                before(*held[0])


def _renew_lock() -> None:
    """In a forked process, the thread that held the lock does not exist and cannot release it."""
    global _writing
    _writing = threading.RLock()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_renew_lock)
