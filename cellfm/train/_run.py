"""The folder of a training run: configuration, checkpoints, log, and the final model.

run.json                model, data and configuration of the training, and the version of cellfm that began it
worker_logs/            the output of each process, if several train together
log.csv                 a line every `log_every` steps and at each validation
checkpoints/step-N/     weights, optimizer, loss scale: everything that continuing needs
model/                  the model, for `cf.load_model`
tensorboard/            the log again, if tensorboardX is installed
"""

import csv
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import save_file

from cellfm.errors import CheckpointError, InputError
from cellfm.io.atomic_file import atomic_file, whole_folder
from cellfm.io.lock import LOCK, locked
from cellfm.io.safe_read import parse_arrays, read_file, read_json

WORKER_LOGS = "worker_logs"
TENSORBOARD = "tensorboard"

COLUMNS = (
    "step", "epoch", "loss", "gene", "cell", "contrast", "type", "learning_rate", "gradient_norm", "loss_scale",
    "cells_per_second", "validation_loss", "validation_knn",
)  # fmt: skip


def read_log(run: str | Path) -> pd.DataFrame:
    """The log of a run, one row a step, missing where a row has no such number; also while the run goes on.

    Raises
    ------
    InputError
        The folder holds no training run, or one that has logged nothing yet.
    """
    path = Path(run) / "log.csv"
    if not (Path(run) / "run.json").is_file():
        raise InputError(f"{run} contains no training run; pass the folder given to cf.train.pretrain(out=).")
    try:
        log = pd.read_csv(path, on_bad_lines="skip")  # the last line may be half-written
    except (FileNotFoundError, pd.errors.EmptyDataError):
        log = pd.DataFrame(columns=["step"])
    if log.empty:
        raise InputError(f"The run in {run} has not logged a step yet; wait for `log_every` steps.")
    return log.groupby("step").first()


class RunFolder:
    """Reads and writes the files of a run; every file is complete or absent."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.log = self.path / "log.csv"
        self.model = self.path / "model"
        self._board: Any = None

    @contextmanager
    def opened(self, facts: dict[str, Any]) -> Iterator[None]:
        """Start or continue a run, with exclusive access; see `start` for the checks."""
        self.require_own()
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path):
            self.start(facts)
            yield

    def start(self, facts: dict[str, Any]) -> None:
        """Make the folder, or check that it holds the same run."""
        file = self.path / "run.json"
        facts = json.loads(json.dumps(facts))
        if not file.exists():
            self.require_own()
            self.path.mkdir(parents=True, exist_ok=True)
            with atomic_file(file) as partial:
                partial.write_text(json.dumps({"cellfm_version": version("cellfm")} | facts, indent=1) + "\n")
            return
        before = read_json(file)
        # Another version of cellfm may continue a run.
        differing = sorted(name for name in _differing(before, facts) if not name.startswith("cellfm_version"))
        if differing:
            raise InputError(
                f"{self.path} contains a run with another configuration; different: {', '.join(differing)}. Choose "
                "another folder, or start with the same configuration to continue."
            )

    def require_own(self) -> None:
        """Check that nothing but a run is in the folder."""
        if not self.path.exists() or (self.path / "run.json").exists():
            return
        known = (WORKER_LOGS, LOCK, ".run.json-")  # the last is left by a process that was killed at its start
        if not self.path.is_dir() or not all(path.name.startswith(known) for path in self.path.iterdir()):
            raise InputError(f"{self.path} contains something other than a training run; choose another folder.")

    def steps(self) -> list[int]:
        """Steps that have a checkpoint."""
        return sorted(int(folder.name.removeprefix("step-")) for folder in self.checkpoints.glob("step-*"))

    def save(self, step: int, tensors: dict[str, np.ndarray], state: dict[str, Any], *, keep: int) -> Path:
        """Write a checkpoint and remove all but the last `keep`."""
        folder = self.checkpoints / f"step-{step:09d}"
        for left in self.checkpoints.glob(".step-*"):  # by a process that was killed while saving
            shutil.rmtree(left)
        with whole_folder(folder, overwrite=True) as partial:
            try:
                save_file(tensors, partial / "tensors.safetensors")
            except SafetensorError as error:  # a full disk, say
                raise OSError(str(error)) from error
            (partial / "state.json").write_text(json.dumps(state | {"step": step}, indent=1) + "\n")
        for old in self.steps()[:-keep]:
            shutil.rmtree(self.checkpoints / f"step-{old:09d}")
        return folder

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The last checkpoint, if there is one."""
        if not self.steps():
            return None
        folder = self.checkpoints / f"step-{self.steps()[-1]:09d}"
        try:
            path = folder / "tensors.safetensors"
            tensors, state = parse_arrays(read_file(path), str(path)), read_json(folder / "state.json")
            if not isinstance(state, dict):
                raise CheckpointError("state.json contains no entries")
            return tensors, state
        except CheckpointError as error:
            raise CheckpointError(
                f"The checkpoint {folder} is damaged ({error}). Delete it to continue from the one before."
            ) from None

    def open_log(self, step: int) -> None:
        """Cut the log where training continues: lines of later steps have lost their weights."""
        rows = []
        if self.log.exists():
            with self.log.open(newline="") as file:
                whole = [row for row in csv.DictReader(file) if None not in row.values()]
            rows = [row for row in whole if int(row["step"]) <= step]
        with atomic_file(self.log) as partial, partial.open("w", newline="") as file:
            # Another version of cellfm may have written other columns.
            writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        self._board = _tensorboard(self.path / TENSORBOARD)

    def append_log(self, row: dict[str, Any]) -> None:
        """Add a line to the log, and its numbers to TensorBoard if that is installed."""
        if self._board is not None:
            for name, value in row.items():
                if name != "step" and value not in (None, ""):
                    self._board.add_scalar(name, float(value), row["step"])
        with self.log.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS, restval="").writerow(row)
            file.flush()
            os.fsync(file.fileno())


def _tensorboard(folder: Path) -> Any:
    """A writer for TensorBoard, if tensorboardX is installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


def _differing(before: Any, after: Any, name: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = before.keys() | after.keys()
        return [
            found
            for key in keys
            for found in _differing(before.get(key), after.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if before == after else [f"{name} ({before!r}, now {after!r})"]
