"""The processes that msrun started on this machine: their progress, how to stop them, and why one died."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

_TICK = 0.3  # seconds between checks of the processes
_PID = re.compile(r"^process (\d+)$", re.MULTILINE)
_DIED = re.compile(r"Worker process (\d+) exit with exception\. Error code: (-?\d+)")


class Workers:
    """The processes of this machine, under msrun."""

    def __init__(self, msrun: subprocess.Popen, output: Path, logs: list[Path]) -> None:
        self.msrun, self.output, self.logs = msrun, output, logs
        self.n_forwarded = 0  # number of stops that were forwarded
        self.forwarded = 0  # bytes of the first log; negative when nothing more is to be forwarded

    def wait(self, asked: list[int], bar: tqdm, done: Callable[[], tuple[int, dict[str, str]]]) -> None:
        """Wait until they have ended or one of them has died; `done` returns the progress and text for the bar."""
        while self.msrun.poll() is None and not self.died():
            time.sleep(_TICK)
            self._show(bar, *done())
            if len(asked) > self.n_forwarded:
                self.n_forwarded = len(asked)
                self._stop(orderly=self.n_forwarded == 1)
        self._show(bar, *done())

    def died(self) -> tuple[int, int] | None:
        """Process id and exit code of the first that failed."""
        found = _DIED.search(self.output.read_text(errors="replace"))
        return (int(found[1]), int(found[2])) if found else None

    def pids(self) -> dict[int, Path]:
        """Log of each process that has started, by process id."""
        texts = {log: log.read_text(errors="replace") for log in self.logs if log.exists()}
        return {int(found[1]): log for log, text in texts.items() if (found := _PID.search(text))}

    def kill(self) -> None:
        """End all remaining processes: msrun would wait for its scheduler, which waits for dead processes."""
        if self.msrun.poll() is not None:
            return
        for pid in (*self.pids(), self.msrun.pid):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        self.msrun.wait()

    def why(self) -> str | None:
        """The cause of the failure, in words."""
        died = self.died()
        if died is None:
            ended_well = self.msrun.returncode == 0
            return None if ended_well else f"The processes could not be started or did not end well; see {self.output}."
        pid, code = died
        log = self.pids().get(pid)
        if log is None:
            return f"A process ended with code {code}; see {self.output.parent}."
        return f"Process {log.stem.removeprefix('worker_')} ended: {_reason(log, code)} (see {log})."

    def _stop(self, *, orderly: bool) -> None:
        """Ask each process to end after its step, or kill them."""
        pids = self.pids()
        if orderly and len(pids) == len(self.logs):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        else:
            self.msrun.send_signal(signal.SIGINT)  # msrun kills all

    def _show(self, bar: tqdm, done: int, more: dict[str, str]) -> None:
        if self.logs[0].name == "worker_0.log":
            for line in self._news():
                bar.write(line, file=sys.stderr)
        if done > bar.n:
            bar.set_postfix(more)
            bar.update(done - bar.n)

    def _news(self) -> Iterator[str]:
        """New lines of process 0, without its progress bar and the messages of MindSpore."""
        if self.forwarded < 0 or not self.logs[0].exists():
            return
        with self.logs[0].open("rb") as file:
            file.seek(self.forwarded)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.forwarded += len(whole)
        for line in whole.decode(errors="replace").split("\n"):
            line = line.rsplit("\r", 1)[-1].strip()
            if line.startswith(("Traceback", "cellfm: ")):
                self.forwarded = -1  # `why` reports the end
                return
            if line and not line.startswith("[") and not _PID.match(line):
                yield line


def announce() -> None:
    """Tell the launcher, through the log of this process, which one it is."""
    sys.stderr.write(f"process {os.getpid()}\n")
    sys.stderr.flush()


def is_worker() -> bool:
    """Whether msrun started this process, as one that trains or as the scheduler."""
    return "MS_ROLE" in os.environ


def _reason(log: Path, code: int) -> str:
    lines = log.read_text(errors="replace").splitlines()
    for line in lines:
        if line.startswith("cellfm: "):
            return line.removeprefix("cellfm: ").rstrip(".")
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}{', perhaps for want of memory' if code == -signal.SIGKILL else ''}"
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
    return errors[-1] if errors else f"exit code {code}"
