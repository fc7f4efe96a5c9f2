"""One writer per folder: a lock file with the writer's process id, released when the process ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellfm.errors import InputError

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder. The lock of a killed process is ignored."""
    try:
        import fcntl
    except ImportError:  # Windows has none; two writers are not noticed there
        yield
        return
    path = folder / LOCK
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_there(path, file):
                break
        except BlockingIOError:
            holder = os.read(file, 100).decode(errors="replace").strip() or "unknown"
            os.close(file)
            raise InputError(
                f"{folder} is being written by another process (pid {holder}). Wait for it to end, or choose another "
                "folder."
            ) from None
        except OSError:  # a file system without locks
            break
        os.close(file)  # its last holder has removed the file meanwhile
    try:
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _is_there(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False
