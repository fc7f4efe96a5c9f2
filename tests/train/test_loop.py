"""The loop keeps its schedule, ends in order when asked to, and stops where numbers end; resumed is uninterrupted."""

import csv
import os
import re
import shutil
import signal
import threading

import jax
import numpy as np
import pytest

from cellfm.config import TrainConfig
from cellfm.engines import Objective, start_engine
from cellfm.errors import CheckpointError
from cellfm.nn.weights import nest
from cellfm.train._feed import Batch
from cellfm.train._loop import TrainingError, TrainingStopped, train
from cellfm.train._run import RunFolder

CONFIG = {"steps": 12, "log_every": 2, "validate_every": 5, "checkpoint_every": 4, "learning_rate": 0.1}


def quadratic(xp, p, arrays, keys):
    """Distance of a weight to the batch."""
    away = arrays[0] - p["weight"]
    loss = (away * away).sum()
    return loss, xp.stack((loss, loss, loss, loss), 0)


class Draws:
    """Batches that follow from the step; at some steps something happens first."""

    size, steps_per_epoch, min_chunks = 1, 6, 5

    def __init__(self, **at) -> None:
        self.at = {int(step.removeprefix("step_")): do for step, do in at.items()}

    def batch(self, step: int) -> Batch:
        if step in self.at:
            self.at[step]()
        x = np.random.default_rng(step).standard_normal(4).astype(np.float32)
        return Batch([(x,)], n_cells=3, n_targets=2)


class Run:
    """A run that can be started again, with new objects each time."""

    def __init__(self, path, backend="jax", **config) -> None:
        self.engine = start_engine(backend)
        self.folder = RunFolder(path)
        self.folder.path.mkdir(exist_ok=True)
        self.config = TrainConfig(**(CONFIG | config))
        self.validated: list[int] = []

    def __call__(self, feed=None, *, weight: float = 0.0, prepare=lambda trainer: None) -> int:
        weights = {"weight": np.full(4, weight, np.float32), "fixed": np.full(2, 7, np.float32)}
        self.trainer = self.engine.trainer(Objective(quadratic), weights, ["weight"], self.config, nest)
        prepare(self.trainer)
        return train(self.engine, self.trainer, feed or Draws(), self.config, self.folder, self.validate)

    def validate(self) -> dict[str, float]:
        self.validated.append(len(self.validated))
        return {"validation_loss": float((self.trainer.weights()["weight"] ** 2).sum())}

    def rows(self) -> list[dict[str, str]]:
        with self.folder.log.open(newline="") as file:
            return [{k: v for k, v in row.items() if k != "cells_per_second"} for row in csv.DictReader(file)]

    def result(self) -> tuple[list[dict[str, str]], bytes, bytes]:
        last = self.folder.checkpoints / f"step-{self.config.steps:09d}"
        return self.rows(), self.trainer.weights()["weight"].tobytes(), (last / "tensors.safetensors").read_bytes()


@pytest.fixture(scope="module", params=["jax", "mindspore"])
def backend(request) -> str:
    if request.param == "mindspore":
        pytest.importorskip("mindspore", reason="needs MindSpore")
    return request.param


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, backend) -> Run:
    run = Run(tmp_path_factory.mktemp("whole"), backend)
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
def test_resumed_is_uninterrupted(tmp_path, uninterrupted, backend, step):
    run = Run(tmp_path, backend)
    with pytest.raises(CrashError):
        run(Draws(**{f"step_{step}": crash}))
    last = [found for found in (4, 8) if found <= step]
    assert run.folder.steps() == last[-2:]
    seen = Draws(**{f"step_{earlier}": lambda: pytest.fail("done before") for earlier in range(max(last, default=0))})
    assert run(seen) == 12
    assert run.result() == uninterrupted.result()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_run_in_order(tmp_path, uninterrupted, backend, number):
    handler = signal.getsignal(number)
    run = Run(tmp_path, backend)
    with pytest.raises(
        TrainingStopped, match="stopped at step 7 of 12; run the same command again to continue"
    ) as stopped:
        run(Draws(step_6=lambda: os.kill(os.getpid(), number)))
    # MindSpore hands Ctrl-C on as SIGTERM.
    allowed = {"jax": [number], "mindspore": [number, signal.SIGTERM]}[backend]
    assert stopped.value.exit_code - 128 in allowed
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
    with pytest.raises(TrainingError, match=r"became (inf|nan) at step 2. There is no checkpoint. Lower"):
        Run(tmp_path, learning_rate=1e30)()


def test_gradients_that_are_no_numbers_stop_the_run(tmp_path):
    run = Run(tmp_path)
    # The loss is finite here, its gradient's norm overflows.
    with pytest.raises(TrainingError, match="norm of the gradients became inf at step 1"):
        run(weight=4.7e18)


def test_damaged_checkpoint_is_named(tmp_path, uninterrupted, backend):
    shutil.copytree(uninterrupted.folder.path, tmp_path / "run")
    run = Run(tmp_path / "run", backend)
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
    assert (run.trainer.scale.value, run.trainer.scale.steps_since_overflow) == (8 * 2**4, 0)
    assert run.result() == whole.result()


def test_a_checkpoint_of_another_shape_is_refused_and_kept(tmp_path):
    run = Run(tmp_path)
    run()
    tensors, state = run.folder.load()
    state.pop("step")
    for name, array in (("moment2.weight", np.zeros(3, np.float32)), ("weight", np.zeros((4, 1), np.float32))):
        run.folder.save(12, tensors | {name: array}, state, keep=9)
        with pytest.raises(CheckpointError, match=rf"expected weight and its moments of shape \(4,\), .*{name} \("):
            run()
        assert run.folder.load()[0][name].shape == array.shape
    run.folder.save(12, tensors, state, keep=9)
    assert run() == 12


@pytest.mark.parametrize(
    ("asked", "fitting"), [("8000000000 bytes.", 12), ("3.00GiB.", 24), ("3.00MiB.", 48), ("very much.", 48)]
)
def test_a_device_without_memory_is_told_what_would_fit(tmp_path, monkeypatch, asked, fitting):
    class Device:
        platform = "cpu"

        def memory_stats(self):
            return {"bytes_limit": 12 * 2**30, "bytes_in_use": 11 * 2**30}

        def __str__(self):
            return "TPU 0"

    from cellfm.engines.jax import devices

    def exhausted(*_):
        raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: Out of memory while trying to allocate {asked}")

    run = Run(tmp_path)
    with pytest.raises(CrashError):
        run(Draws(step_9=crash))
    with monkeypatch.context() as patch:
        patch.setattr(devices, "default_device", Device)
        patch.setattr(Draws, "min_chunks", 12)
        with pytest.raises(TrainingError) as told:
            run(prepare=lambda trainer: patch.setattr(trainer, "_gradients", exhausted))
        message = str(told.value)
        assert message.startswith("The device (TPU 0) ran out of memory")
        assert f"It computed n_chunks = 96 at once, for batch_size = 128. n_chunks = {fitting} should fit" in message
        assert f"lower the batch size, to {min(128 * fitting // 96, fitting // 12)}." in message
        assert message.endswith(f"The last good checkpoint is step 8 in {run.folder.checkpoints}.")

        patch.setattr(Draws, "min_chunks", 96)
        with pytest.raises(TrainingError, match="Lower train_genes, or set recompute = true or .*'bfloat16'. The last"):
            run(prepare=lambda trainer: patch.setattr(trainer, "_gradients", exhausted))
    assert run() == 12


def test_another_error_of_the_engine_is_what_it_is(tmp_path):
    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: a fault")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        Run(tmp_path)(prepare=lambda trainer: setattr(trainer, "_gradients", broken))
