"""The loop keeps its schedule, ends in order when asked to, and stops where numbers end; resumed is uninterrupted."""

import csv
import os
import re
import shutil
import signal
import threading

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from cellfm.config import TrainConfig
from cellfm.errors import CheckpointError
from cellfm.train._feed import Batch
from cellfm.train._loop import TrainingError, TrainingStopped, train
from cellfm.train._run import RunFolder
from cellfm.train._step import Step

CONFIG = {"steps": 12, "log_every": 2, "validate_every": 5, "checkpoint_every": 4, "learning_rate": 0.1}


class Quadratic(nn.Cell):
    """Distance of a weight to the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = ms.Parameter(ms.Tensor(np.zeros(4, np.float32)), name="weight")
        self.fixed = ms.Parameter(ms.Tensor(np.full(2, 7, np.float32)), name="fixed", requires_grad=False)

    def construct(self, x: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        loss = ((x - self.weight) ** 2).sum()
        return loss, ops.stack((loss, loss, loss, loss))


class Draws:
    """Batches that follow from the step; at some steps something happens first."""

    size, steps_per_epoch = 1, 6

    def __init__(self, **at) -> None:
        self.at = {int(step.removeprefix("step_")): do for step, do in at.items()}

    def batch(self, step: int) -> Batch:
        if step in self.at:
            self.at[step]()
        x = np.random.default_rng(step).standard_normal(4).astype(np.float32)
        return Batch([(x,)], n_cells=3, n_targets=2)


class Run:
    """A run that can be started again, with new objects each time."""

    def __init__(self, path, **config) -> None:
        self.folder = RunFolder(path)
        self.folder.path.mkdir(exist_ok=True)
        self.config = TrainConfig(**(CONFIG | config))
        self.validated: list[int] = []

    def __call__(self, feed=None, *, weight: float = 0.0) -> int:
        self.objective = Quadratic()
        self.objective.weight.set_data(ms.Tensor(np.full(4, weight, np.float32)))
        self.step = Step(self.objective, {"weight": self.objective.weight}, self.config)
        parameters = {"weight": self.objective.weight, "fixed": self.objective.fixed}
        return train(self.step, feed or Draws(), parameters, self.config, self.folder, self.validate)

    def validate(self) -> dict[str, float]:
        self.validated.append(len(self.validated))
        return {"validation_loss": float((self.objective.weight.asnumpy() ** 2).sum())}

    def rows(self) -> list[dict[str, str]]:
        with self.folder.log.open(newline="") as file:
            return [{k: v for k, v in row.items() if k != "cells_per_second"} for row in csv.DictReader(file)]

    def result(self) -> tuple[list[dict[str, str]], bytes, bytes]:
        last = self.folder.checkpoints / f"step-{self.config.steps:09d}"
        return self.rows(), self.objective.weight.asnumpy().tobytes(), (last / "tensors.safetensors").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Run:
    run = Run(tmp_path_factory.mktemp("whole"))
    assert run() == 12
    return run


def test_lines_validations_and_checkpoints_keep_their_schedule(uninterrupted):
    rows = uninterrupted.rows()
    assert [int(row["step"]) for row in rows] == [2, 4, 5, 6, 8, 10, 12]
    assert [int(row["step"]) for row in rows if row["validation_loss"]] == [5, 10, 12], "and at the end"
    assert uninterrupted.folder.steps() == [8, 12]
    assert [row["epoch"] for row in rows if row["step"] in ("2", "6", "12")] == ["0.3333", "1.0000", "2.0000"]


@pytest.mark.parametrize("keep", [1, 2, 9])
def test_so_many_checkpoints_are_kept(tmp_path, keep):
    run = Run(tmp_path, keep_checkpoints=keep)
    run()
    assert run.folder.steps() == [4, 8, 12][-keep:]


def test_a_finished_run_has_nothing_to_do(uninterrupted):
    before = uninterrupted.result()
    assert uninterrupted(Draws(step_0=pytest.fail)) == 12
    assert uninterrupted.result() == before


class CrashError(Exception):
    pass


def crash() -> None:
    raise CrashError


@pytest.mark.parametrize("step", [1, 3, 4, 7, 11])
def test_resumed_is_uninterrupted(tmp_path, uninterrupted, step):
    run = Run(tmp_path)
    with pytest.raises(CrashError):
        run(Draws(**{f"step_{step}": crash}))
    last = [found for found in (4, 8) if found <= step]
    assert run.folder.steps() == last[-2:]
    seen = Draws(**{f"step_{earlier}": lambda: pytest.fail("done before") for earlier in range(max(last, default=0))})
    assert run(seen) == 12
    assert run.result() == uninterrupted.result()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_run_in_order(tmp_path, uninterrupted, number):
    handler = signal.getsignal(number)
    run = Run(tmp_path)
    with pytest.raises(
        TrainingStopped, match="stopped at step 7 of 12; run the same command again to go on"
    ) as stopped:
        run(Draws(step_6=lambda: os.kill(os.getpid(), number)))
    # MindSpore hands Ctrl-C on as SIGTERM.
    assert stopped.value.exit_code in (128 + number, 128 + signal.SIGTERM)
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert run.folder.steps() == [4, 7], "the step under way is finished and kept"
    assert signal.getsignal(number) == handler
    assert run() == 12
    assert run.rows() == uninterrupted.rows()
    assert run.result()[1:] == uninterrupted.result()[1:]


def test_signal_during_validation_is_heard(tmp_path):
    run = Run(tmp_path)
    run.validate = lambda: os.kill(os.getpid(), signal.SIGTERM) or {}
    with pytest.raises(TrainingStopped):
        run()
    assert run.folder.steps()[-1] in (5, 6)


def test_training_runs_beside_the_main_thread(tmp_path):
    run, done = Run(tmp_path), []
    thread = threading.Thread(target=lambda: done.append(run()))
    thread.start()
    thread.join()
    assert done == [12]


class Poisoned(Draws):
    def batch(self, step: int) -> Batch:
        return Batch([(np.full(4, np.nan, np.float32),)], 3, 4) if step == 9 else super().batch(step)


def test_a_loss_that_is_no_number_stops_with_the_last_good_checkpoint(tmp_path):
    run = Run(tmp_path)
    where = re.escape(str(run.folder.checkpoints))
    message = f"The loss became nan at step 10. The last good checkpoint is step 8 in {where}"
    with pytest.raises(TrainingError, match=message):
        run(Poisoned())
    assert run.folder.steps() == [4, 8]
    assert np.isfinite(run.folder.load()[0]["weight"]).all()
    assert int(run.rows()[-1]["step"]) == 8


def test_diverged_weights_stop_the_run(tmp_path):
    with pytest.raises(TrainingError, match=r"became (inf|nan) at step 2. There is no checkpoint yet. Lower"):
        Run(tmp_path, learning_rate=1e30)()


def test_gradients_that_are_no_numbers_stop_the_run(tmp_path):
    run = Run(tmp_path)
    # The loss is finite here, its gradient's norm overflows.
    with pytest.raises(TrainingError, match="norm of the gradients became inf at step 1"):
        run(weight=4.7e18)


def test_damaged_checkpoint_is_named(tmp_path, uninterrupted):
    shutil.copytree(uninterrupted.folder.path, tmp_path / "run")
    run = Run(tmp_path / "run")
    last = run.folder.checkpoints / "step-000000012"
    tensors = last / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:40])
    with pytest.raises(CheckpointError, match=f"{re.escape(str(last))} is damaged"):
        run()
    shutil.rmtree(last)  # what the message says to do
    assert run() == 12
    assert run.result() == uninterrupted.result()


def test_loss_scale_is_part_of_a_checkpoint(tmp_path):
    options = {"precision": "float16", "loss_scale": 8.0, "loss_scale_window": 3}
    run = Run(tmp_path, **options)
    with pytest.raises(CrashError):
        run(Draws(step_8=crash))
    run()
    whole = Run(tmp_path / "whole", **options)
    whole()
    assert (run.step.loss_scale, run.step.steps_since_overflow) == (8 * 2**4, 0)
    assert run.result() == whole.result()
