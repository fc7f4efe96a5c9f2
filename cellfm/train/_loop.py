"""The training loop: steps, log, validation, checkpoints, and an orderly stop at any time."""

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from cellfm.config import TrainConfig
from cellfm.engines import Engine, StepResult, Trainer, learning_rate
from cellfm.errors import CheckpointError, TrainingError
from cellfm.io.logging import logger
from cellfm.io.progress import progress
from cellfm.train._ending import TrainingStopped, clear_memory_errors, stop_signals
from cellfm.train._feed import Feed
from cellfm.train._processes import require_same
from cellfm.train._run import RunFolder

Validate = Callable[[], dict[str, float]]


def train(
    engine: Engine,
    trainer: Trainer,
    feed: Feed,
    config: TrainConfig,
    run: RunFolder,
    validate: Validate,
    *,
    is_writer: bool = True,
) -> int:
    """Train up to `config.steps`, continuing from the last checkpoint.

    Parameters
    ----------
    trainer
        Its weights, trained or not, and the moments of its optimiser are saved in checkpoints, for any engine.
    validate
        Returns the results of a validation, by column of the log.
    is_writer
        Whether this process writes files; only one of several processes does.

    Returns
    -------
    Steps done.
    """
    start = _restore(trainer, run)
    require_same(engine, {"last checkpoint": start})
    trainer.share()
    if is_writer:
        run.open_log(start)
    done, since, cells = start, time.perf_counter(), 0
    stopped = _Stop()
    with stop_signals(stopped), progress(config.steps - start, "training", "steps") as bar:
        last = done == config.steps
        while not last:
            batch = feed.batch(done)
            asked = stopped.is_set()
            with clear_memory_errors(config, feed.min_chunks, _last_good(run)):
                result = trainer(batch.micro, done, weight=batch.n_targets or batch.n_cells, stop=asked)
            _require_finite(result, done, run)
            done, cells = done + 1, cells + batch.n_cells * feed.size
            bar.set_postfix(loss=f"{result.loss:.4g}", refresh=False)
            bar.update()
            # Several processes end at the same step: one of which all have been notified.
            last = done == config.steps or result.stop or (feed.size == 1 and stopped.is_set())
            facts = {}
            if done % config.validate_every == 0 or done == config.steps:
                with clear_memory_errors(config, feed.min_chunks, _last_good(run)):
                    facts = validate()
            if is_writer and (done % config.log_every == 0 or facts):
                speed = cells / (time.perf_counter() - since)
                run.append_log(_row(done, result, feed, config, trainer) | facts | {"cells_per_second": f"{speed:.1f}"})
                since, cells = time.perf_counter(), 0
            if done % config.checkpoint_every == 0 or last:
                _save(trainer, run, done, config.keep_checkpoints, is_writer=is_writer)
    if done < config.steps:
        message = f"stopped at step {done:,} of {config.steps:,}; run the same command again to continue."
        raise TrainingStopped(message, stopped.number or signal.SIGTERM)
    return done


def _row(done: int, result: StepResult, feed: Feed, config: TrainConfig, trainer: Trainer) -> dict[str, Any]:
    gene, cell, contrast, of_type = (float(term) for term in result.terms)
    return {
        "step": done,
        "epoch": f"{done / feed.steps_per_epoch:.4f}",
        "loss": repr(float(result.loss)),
        "gene": repr(gene),
        "cell": repr(cell),
        "contrast": repr(contrast),
        "type": repr(of_type),
        "learning_rate": f"{learning_rate(config, done - 1):.4g}",
        "gradient_norm": f"{result.norm:.4g}",
        "loss_scale": f"{trainer.scale.value:g}",
    }


def _restore(trainer: Trainer, run: RunFolder) -> int:
    found = run.load()
    if found is None:
        return 0
    arrays, state = found
    _require_shapes(trainer, arrays, run)
    trainer.load(arrays)
    trainer.scale.value, trainer.scale.steps_since_overflow = state["loss_scale"], state["steps_since_overflow"]
    logger.info("continuing from step %d.", state["step"])
    return state["step"]


def _require_shapes(trainer: Trainer, arrays: dict[str, np.ndarray], run: RunFolder) -> None:
    """Refuse a checkpoint whose weights or optimiser state are not those of this run."""
    for name, array in trainer.weights().items():
        stored = {key: arrays[key] for key in (name, f"moment1.{name}", f"moment2.{name}") if key in arrays}
        if name not in stored or any(part.shape != array.shape for part in stored.values()):
            shapes = ", ".join(f"{key} {part.shape}" for key, part in stored.items()) or "nothing"
            raise CheckpointError(
                f"The last checkpoint in {run.checkpoints} does not belong to this network: expected {name} and its "
                f"moments of shape {array.shape}, found {shapes}. Choose another folder for this run."
            )


def _save(trainer: Trainer, run: RunFolder, done: int, keep: int, *, is_writer: bool) -> None:
    arrays = trainer.weights() | trainer.moments()  # all processes take part if each has a share
    if not is_writer:
        return
    state = {"loss_scale": trainer.scale.value, "steps_since_overflow": trainer.scale.steps_since_overflow}
    run.save(done, arrays, state, keep=keep)


def _require_finite(result: StepResult, done: int, run: RunFolder) -> None:
    if np.isfinite(result.loss) and (np.isfinite(result.norm) or result.skipped):
        return
    what = "norm of the gradients" if np.isfinite(result.loss) else "loss"
    number = result.norm if np.isfinite(result.loss) else result.loss
    raise TrainingError(
        f"The {what} became {number} at step {done + 1}. {_last_good(run)} Lower the learning rate or raise "
        "warmup_steps."
    )


def _last_good(run: RunFolder) -> str:
    good = run.steps()
    return f"The last good checkpoint is step {good[-1]} in {run.checkpoints}." if good else "There is no checkpoint."


class _Stop(threading.Event):
    """Set by a signal, so that the current step is finished and saved; it stores the number of the signal.

    Often SIGTERM, into which MindSpore turns Ctrl-C while it computes.
    """

    number = 0

    def __call__(self, number: int, *_: object) -> None:
        self.number = self.number or number
        self.set()
