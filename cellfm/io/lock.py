"""One writer per folder: a lock file that names the writing process, and that counts only while it runs."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cellfm.errors import InputError
from cellfm.io.logging import logger

LOCK = ".lock"
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder. The lock of a killed process is ignored.

    Where the file system has no locks, as some network file systems, other processes are not kept out; a log message
    says so.
    """
    path = folder / LOCK
    holder = _holder(path)  # read first: filelock 3 empties the file as it tries
    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{folder} is being written by another process ({holder}). Wait for it to end, or choose another folder."
        ) from None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        logger.warning(
            "The file system of %s has no locks. Make sure that no other process writes to this folder.", folder
        )
        yield
        return
    try:
        path.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")
        yield
    finally:
        with suppress(PermissionError):  # Windows removes no open file
            path.unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    """Process id and host, of the process that holds or held the lock."""
    try:
        process, host = path.read_text().split()
    except (OSError, ValueError):
        return "of unknown id"
    return f"pid {process} on {host}"
