"""The loop: steps, lines in the log, validation, checkpoints, and an orderly end at any moment."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mindspore as ms
import numpy as np

from cellfm._logging import logger
from cellfm._progress import progress
from cellfm.config import TrainConfig
from cellfm.train._distributed import require_same, share
from cellfm.train._ending import TrainingError, TrainingStopped
from cellfm.train._feed import Feed
from cellfm.train._optim import learning_rate
from cellfm.train._run import RunFolder
from cellfm.train._step import Step, StepResult

Validate = Callable[[], dict[str, float]]


def train(
    step: Step,
    feed: Feed,
    parameters: dict[str, ms.Parameter],
    config: TrainConfig,
    run: RunFolder,
    validate: Validate,
    *,
    is_writer: bool = True,
) -> int:
    """Train up to `config.steps`, going on from the last checkpoint.

    Parameters
    ----------
    parameters
        Weights of the network by name, trained or not: what a checkpoint holds beside the optimizer's state.
    validate
        Facts of a validation, by column of the log.
    is_writer
        Whether this process writes files; of several that train together one does.

    Returns
    -------
    Steps done.

    Raises
    ------
    TrainingError
        The loss or its gradient is no number.
    TrainingStopped
        SIGTERM or Ctrl-C came, to any of the processes: a checkpoint was written.
    """
    start = _restore(step, parameters, run)
    require_same({"last checkpoint": start})
    share(parameters)
    if is_writer:
        run.open_log(start)
    done, since, cells = start, time.perf_counter(), 0
    with _stop_signals() as stopped, progress(config.steps - start, "training", "steps") as bar:
        last = done == config.steps
        while not last:
            batch = feed.batch(done)
            asked = stopped.is_set()
            result = step(batch.micro, done, weight=batch.n_targets or batch.n_cells, stop=asked)
            _require_finite(result, done, run)
            done, cells = done + 1, cells + batch.n_cells * feed.size
            bar.set_postfix(loss=f"{result.loss:.4g}", refresh=False)
            bar.update()
            # Several processes end at the same step: that of which all have heard.
            last = done == config.steps or result.stop or (feed.size == 1 and stopped.is_set())
            facts = validate() if done % config.validate_every == 0 or done == config.steps else {}
            if is_writer and (done % config.log_every == 0 or facts):
                speed = cells / (time.perf_counter() - since)
                run.append_log(_row(done, result, feed, config, step) | facts | {"cells_per_second": f"{speed:.1f}"})
                since, cells = time.perf_counter(), 0
            if done % config.checkpoint_every == 0 or last:
                _save(step, parameters, run, done, config.keep_checkpoints, is_writer=is_writer)
    if done < config.steps:
        message = f"stopped at step {done:,} of {config.steps:,}; run the same command again to go on."
        raise TrainingStopped(message, stopped.number or signal.SIGTERM)
    return done


def _row(done: int, result: StepResult, feed: Feed, config: TrainConfig, step: Step) -> dict[str, Any]:
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
        "loss_scale": f"{step.loss_scale:g}",
    }


def _restore(step: Step, parameters: dict[str, ms.Parameter], run: RunFolder) -> int:
    found = run.load()
    if found is None:
        return 0
    tensors, state = found
    for name, parameter in (parameters | step.optimizer.state()).items():
        parameter.set_data(ms.Tensor(tensors[name]))
    step.loss_scale, step.steps_since_overflow = state["loss_scale"], state["steps_since_overflow"]
    logger.info("going on from step %d.", state["step"])
    return state["step"]


def _save(
    step: Step, parameters: dict[str, ms.Parameter], run: RunFolder, done: int, keep: int, *, is_writer: bool
) -> None:
    moments = step.optimizer.whole_state()  # all processes take part where each has its share of them
    if not is_writer:
        return
    tensors = {name: parameter.asnumpy() for name, parameter in parameters.items()} | moments
    state = {"loss_scale": step.loss_scale, "steps_since_overflow": step.steps_since_overflow}
    run.save(done, tensors, state, keep=keep)


def _require_finite(result: StepResult, done: int, run: RunFolder) -> None:
    if np.isfinite(result.loss) and (np.isfinite(result.norm) or result.skipped):
        return
    good = run.steps()
    where = (
        f"The last good checkpoint is step {good[-1]} in {run.checkpoints}" if good else "There is no checkpoint yet"
    )
    what = "norm of the gradients" if np.isfinite(result.loss) else "loss"
    number = result.norm if np.isfinite(result.loss) else result.loss
    raise TrainingError(
        f"The {what} became {number} at step {done + 1}. {where}. Lower the learning rate or raise warmup_steps."
    )


class _Stop(threading.Event):
    """Set by a signal, whose number it keeps: mostly SIGTERM, which MindSpore makes of Ctrl-C while it computes."""

    number = 0

    def __call__(self, number: int, *_: object) -> None:
        self.number = self.number or number
        self.set()


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """An event that SIGTERM and Ctrl-C set, so that the step under way is finished and kept."""
    stopped = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stopped  # only the main thread gets signals
        return
    handlers = {number: signal.signal(number, stopped) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
