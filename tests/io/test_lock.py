"""One process at a time writes to a folder."""

import errno
import os
import socket
import subprocess
import sys

import filelock
import pytest

from cellfm.errors import InputError
from cellfm.io.lock import locked

HOLD = """
import sys, time
from pathlib import Path
from cellfm.io.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_a_second_process_is_refused_and_told_who_writes(holder, tmp_path):
    said = rf"written by another process \(pid {holder.pid} on {socket.gethostname()}\). Wait"
    with pytest.raises(InputError, match=said), locked(tmp_path):
        pass


def test_a_killed_process_does_not_count(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / ".lock").read_text().startswith(f"{holder.pid}\n")
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"{os.getpid()}\n")
    assert not list(tmp_path.iterdir())


def test_the_lock_ends_with_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        _ = 1 / 0
    with locked(tmp_path):
        pass


def failing(error):
    def acquire(self, *args, **kwargs):
        raise error

    return acquire


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(filelock.FileLock, "acquire", failing(OSError(errno.ENOLCK, "No locks available")))
    with locked(tmp_path):
        (tmp_path / "written").touch()
    assert "has no locks" in caplog.text


def test_other_errors_of_the_disk_are_not_hidden(tmp_path, monkeypatch):
    monkeypatch.setattr(filelock.FileLock, "acquire", failing(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space"), locked(tmp_path):
        pass
