"""`cellfm pretrain --workers N`: processes of this machine that train together, started by MindSpore's msrun.

This process computes nothing. It starts msrun, shows the progress of the run, forwards Ctrl-C and SIGTERM as an orderly
stop, and reports in one message why a process died. It reads the log of each process and the log.csv of the run.
"""

import csv
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cellfm.config import ClusterConfig
from cellfm.errors import InputError, TrainingError
from cellfm.io.progress import progress
from cellfm.train._ending import TrainingStopped, stop_signals
from cellfm.train._run import WORKER_LOGS, RunFolder
from cellfm.train._workers import Workers

_LOCAL = "127.0.0.1"
_PATIENCE = {1: 120, 2: 600}  # seconds to wait for other processes at the start: on one machine, on several


@dataclass(frozen=True)
class Job:
    """The processes of a job that this machine starts."""

    address: str
    """Address to which all processes connect."""
    port: int
    n_processes: int
    n_local: int
    node: int = 0

    @classmethod
    def local(cls, workers: int, port: int | None = None) -> "Job":
        """All processes on this machine, which meet at a free port unless one is given."""
        return cls(_LOCAL, port or free_port(), workers, workers)

    @classmethod
    def of_node(cls, cluster: ClusterConfig, node: int) -> "Job":
        """The processes of one machine of several."""
        if not 0 <= node < len(cluster.nodes):
            raise InputError(f"--node {node}: [cluster] has the nodes 0 to {len(cluster.nodes) - 1}.")
        n_local = cluster.workers_per_node
        return cls(cluster.nodes[0], cluster.port, n_local * len(cluster.nodes), n_local, node)

    def command(self, logs: Path, arguments: Sequence[str]) -> list[str]:
        """The call of msrun."""
        several = self.n_local < self.n_processes
        return [
            *(sys.executable, "-m", "mindspore.parallel.cluster.run"),
            f"--worker_num={self.n_processes}",
            f"--local_worker_num={self.n_local}",
            f"--master_addr={self.address}",
            f"--master_port={self.port}",
            *([f"--node_rank={self.node}"] if several else []),
            f"--cluster_time_out={_PATIENCE[1 + several]}",
            "--join=True",
            f"--log_dir={logs}",
            "--tail_worker_log=0",
            *(_python(), "-m", "cellfm", *arguments),
        ]

    def logs(self, folder: Path) -> list[Path]:
        """The log of each process of this machine, where process i writes to ``worker_i.log``."""
        first = self.node * self.n_local
        return [folder / f"worker_{i}.log" for i in range(first, first + self.n_local)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOCAL, 0))
        return probe.getsockname()[1]


def require_free(port: int) -> None:
    """Check that nothing listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ports in use a moment ago count as free
        try:
            probe.bind(("", port))
        except OSError as error:
            raise InputError(f"Port {port} cannot be used ({error.strerror}). Choose another with --port.") from None


def launch(job: Job, arguments: Sequence[str], out: str | Path, *, steps: int) -> None:
    """Run ``cellfm`` with `arguments` in each process of a job, until all have done `steps` steps.

    Raises
    ------
    InputError
        The port is in use, or the folder holds other files.
    TrainingError
        A process died; the message names its log, and the step from which the same command continues.
    TrainingStopped
        Ctrl-C or SIGTERM, here or to one of the processes.
    """
    run = RunFolder(out)
    run.require_own()
    if job.node == 0:
        require_free(job.port)
    folder = run.path / WORKER_LOGS
    with started(job, arguments, folder) as (workers, asked), progress(steps, "training", "steps") as bar:
        workers.wait(asked, bar, lambda: _last_step(run.log))
    _conclude(workers, asked, run, steps)


@contextmanager
def started(job: Job, arguments: Sequence[str], folder: Path) -> Iterator[tuple[Workers, list[int]]]:
    """The processes of a job, which log to `folder`, and the signals that asked this one to stop."""
    asked: list[int] = []
    folder.mkdir(parents=True, exist_ok=True)
    for log in job.logs(folder):
        log.unlink(missing_ok=True)
    with (folder / f"msrun_{job.node}.log").open("w+") as output, stop_signals(lambda number, _: asked.append(number)):
        msrun = subprocess.Popen(  # noqa: S603 (this interpreter)
            job.command(folder, arguments),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,  # only this process receives Ctrl-C, and forwards it
        )
        workers = Workers(msrun, Path(output.name), job.logs(folder))
        try:
            yield workers, asked
        finally:
            workers.kill()


def _conclude(workers: Workers, asked: list[int], run: RunFolder, steps: int) -> None:
    done = max(run.steps(), default=0)
    goes_on = f"The same command continues from step {done:,}." if done else "The same command starts again."
    if asked:
        raise TrainingStopped(f"stopped at step {done:,} of {steps:,}. {goes_on}", asked[0])
    if reason := workers.why():
        raise TrainingError(f"{reason} {goes_on}")
    if done < steps:
        raise TrainingStopped(f"a process was asked to stop at step {done:,} of {steps:,}. {goes_on}", signal.SIGTERM)


def _last_step(log: Path) -> tuple[int, dict[str, str]]:
    """The last step that a run has logged, and the text for the progress bar."""
    if not log.exists():
        return 0, {}
    with log.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["cells_per_second"]]
    if not rows:
        return 0, {}
    return int(rows[-1]["step"]), {
        "loss": f"{float(rows[-1]['loss']):.4g}",
        "cells_per_second": rows[-1]["cells_per_second"],
    }


def _python() -> str:
    """The name of this interpreter among the programs of its folder: msrun starts a program by name."""
    folder = Path(sys.executable).parent
    for name in ("python", "python3"):
        if (folder / name).exists():
            return name
    raise InputError(f"msrun starts a program named python, and {folder} has none. Make a virtual environment.")


def _environment() -> dict[str, str]:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    # The progress bar of process 0 goes to its log, where one line per minute is enough.
    return os.environ | {"PATH": path, "TQDM_MININTERVAL": "60", "GLOG_v": os.environ.get("GLOG_v", "3")}  # noqa: SIM112
