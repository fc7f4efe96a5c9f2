"""One update of the weights: compiled gradients, accumulation, loss scale, averaging over processes, Adam."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from cellfm.config import TrainConfig
from cellfm.nn import draw_dropout, dropouts
from cellfm.train._optim import Adam, learning_rate, sum_of_squares

MAX_LOSS_SCALE = 2.0**24


@dataclass(frozen=True)
class StepResult:
    """What an update did."""

    loss: float
    terms: np.ndarray
    """The terms of the objective, unweighted."""
    norm: float
    """Norm of all gradients before clipping."""
    skipped: bool
    """A gradient overflowed under a loss scale that can be lowered: nothing was updated."""
    stop: bool = False
    """A process was asked to stop."""


class Step:
    """Updates the trained parameters of an objective.

    Parameters
    ----------
    objective
        A Cell from the arrays of a micro-batch to ``(loss, terms)``, where the losses of all micro-batches add up to
        that of the batch.
    trained
        Parameters to update, by name.
    rank, n_processes
        Which of how many processes this is, each on its part of the batch.
    """

    def __init__(
        self,
        objective: nn.Cell,
        trained: dict[str, ms.Parameter],
        config: TrainConfig,
        *,
        rank: int = 0,
        n_processes: int = 1,
    ) -> None:
        self.config = config
        self.objective = objective
        self.rank = rank
        self.dropouts = dropouts(objective)
        self.loss_scale = config.loss_scale if config.precision == "float16" else 1.0
        self.steps_since_overflow = 0
        self.optimizer = Adam(trained, config, rank=rank, n_processes=n_processes)
        weights = ms.ParameterTuple(list(trained.values()))
        reduce = ops.AllReduce() if n_processes > 1 else None

        def scaled(scale: ms.Tensor, *arrays: ms.Tensor) -> Any:
            loss, terms = objective(*arrays)
            return loss * scale, terms

        with_gradients = ms.value_and_grad(scaled, None, weights, has_aux=True)

        def gradients(scale: ms.Tensor, *arrays: ms.Tensor) -> Any:
            (loss, terms), grads = with_gradients(scale, *arrays)
            return loss, terms, grads

        # Maps and no comprehensions: these would take minutes to compile for the tensors of a deep network.
        each = ops.HyperMap()

        def plus(one: ms.Tensor, other: ms.Tensor) -> ms.Tensor:
            return one + other

        def times(factor: ms.Tensor, grad: ms.Tensor) -> ms.Tensor:
            return grad * factor

        def summed(grad: ms.Tensor) -> ms.Tensor:
            return grad if reduce is None else reduce(grad)

        def norm(grad: ms.Tensor) -> ms.Tensor:
            return ops.sqrt((grad * grad).sum())

        def add(some: Sequence[ms.Tensor], others: Sequence[ms.Tensor]) -> Any:
            return each(plus, some, others)

        def finish(grads: Sequence[ms.Tensor], factor: ms.Tensor) -> Any:
            """Undo the loss scale, sum over processes, and measure."""
            grads = each(summed, each(ops.partial(times, factor), grads))
            norms = each(norm, grads)
            return grads, norms, ops.sqrt(sum_of_squares(norms))

        def total(numbers: ms.Tensor) -> ms.Tensor:
            return numbers if reduce is None else reduce(numbers)

        self._gradients, self._add, self._finish = ms.jit(gradients), ms.jit(add), ms.jit(finish)
        self._update, self._total = ms.jit(self.optimizer.construct), ms.jit(total)
        self._exchange = ms.jit(self.optimizer.exchange)

    def __call__(
        self, micro_batches: Sequence[Sequence[np.ndarray]], step: int, *, weight: float = 1.0, stop: bool = False
    ) -> StepResult:
        """Update on the micro-batches of step `step`, counted from 0.

        `weight` is what this process's losses count among those of all processes (its targets); `stop` tells all of
        them that this one was asked to stop.
        """
        self.objective.set_train(True)
        scale = _scalar(self.loss_scale)
        draw_dropout(self.dropouts, (self.config.random_state, self.rank, step, 0))
        loss, terms, grads = self._gradients(scale, *map(ms.Tensor, micro_batches[0]))
        for i, micro in enumerate(micro_batches[1:], start=1):
            draw_dropout(self.dropouts, (self.config.random_state, self.rank, step, i))
            more_loss, more_terms, more_grads = self._gradients(scale, *map(ms.Tensor, micro))
            loss, terms, grads = (
                loss + more_loss,
                terms + more_terms,
                self._add(ms.mutable(grads), ms.mutable(more_grads)),
            )
        facts = np.concatenate(([loss.asnumpy() / self.loss_scale], terms.asnumpy())).astype(np.float32) * weight
        facts = np.concatenate(([weight, stop], facts)).astype(np.float32)
        weights, stops, *facts = self._total(ms.Tensor(facts)).asnumpy()
        grads, norms, norm = self._finish(ms.mutable(grads), _scalar(weight / (weights * self.loss_scale)))
        finite = bool(np.isfinite(float(norm)))
        skipped = not finite and self.loss_scale > 1
        result = StepResult(facts[0] / weights, np.array(facts[1:]) / weights, float(norm), skipped, bool(stops > 0))
        if finite:
            t = step + 1
            powers = (self.config.beta1**t, self.config.beta2**t)
            rate = learning_rate(self.config, step)
            self._update(ms.mutable(grads), ms.mutable(norms), _scalar(rate), *map(_scalar, powers))
            if self.optimizer.sharded:
                self._exchange()
        self._rescale(overflow=not finite)
        return result

    def _rescale(self, *, overflow: bool) -> None:
        """Halve the loss scale at an overflow, double it after a window without one."""
        if self.config.precision != "float16":
            return
        self.steps_since_overflow = 0 if overflow else self.steps_since_overflow + 1
        if overflow:
            self.loss_scale = max(1.0, self.loss_scale / 2)
        elif self.steps_since_overflow == self.config.loss_scale_window:
            self.loss_scale, self.steps_since_overflow = min(MAX_LOSS_SCALE, self.loss_scale * 2), 0


def _scalar(number: float) -> ms.Tensor:
    return ms.Tensor(np.float32(number))
