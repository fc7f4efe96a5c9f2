"""The definition of a training step for all engines: protocol, learning rates, weight decay and loss scale."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from cellfm.config import TrainConfig
from cellfm.errors import InputError

MAX_LOSS_SCALE = 2.0**24
HEAD = "head."
"""Prefix of the names of weights that an objective adds to the network."""
FIXED = "fixed."
"""Prefix of the names of constant arrays of an objective."""
# Embeddings, norms, and vectors and scalars in general do not decay.
_NO_DECAY = ("embed.gene", "embed.cls", "embed.hidden", "embed.zero", "embed.depth", "gamma", "beta", "skip")


@dataclass(frozen=True)
class Objective:
    """A loss and its additional weights and constants."""

    loss: Callable[..., tuple[Any, ...]]
    """``loss(xp, weights, arrays, keys)`` to the loss of a micro-batch, its terms and, if it has any, new `statistics`.

    The losses of all micro-batches add up to that of the batch. `keys` (n_keys,) int32 are those of dropout, None
    where nothing is dropped.
    """
    n_keys: int = 0
    head: dict[str, np.ndarray] = field(default_factory=dict)
    """Weights, by flat name, that it adds to those of the network, as ``head`` of the nested ones."""
    fixed: dict[str, np.ndarray] = field(default_factory=dict)
    """Arrays, by flat name, that it reads as ``fixed`` of the nested weights and nothing changes."""
    statistics: tuple[str, ...] = ()
    """Weights that no gradient changes but the loss itself."""

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """What it adds to the weights of the network, by flat name."""
        head = {HEAD + name: array for name, array in self.head.items()}
        return head | {FIXED + name: array for name, array in self.fixed.items()}


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


class DeviceMemoryError(InputError, RuntimeError):
    """A device does not have enough memory; `asked` and `free` are bytes, None if unknown."""

    def __init__(self, device: str, asked: int | None = None, free: int | None = None, advice: str = "") -> None:
        self.device, self.asked, self.free = device, asked, free
        numbers = "" if asked is None else f": {asked / 1e9:.2g} GB more were needed"
        numbers += "" if asked is None or free is None else f", {free / 1e9:.2g} GB are free"
        super().__init__(f"The device ({device}) ran out of memory{numbers}. {advice}".rstrip())

    def advised(self, n_chunks: int, chunks_of_a_cell: int) -> "DeviceMemoryError":
        """The same error, with the batch size that should fit, given that `n_chunks` chunks were computed at once."""
        batch_size = self.fitting(n_chunks) // chunks_of_a_cell
        advice = "One cell alone is too large for it: compute with cf.settings.device = 'CPU'."
        if batch_size:
            advice = f"batch_size={batch_size} should fit, and gives the same results."
        return DeviceMemoryError(self.device, self.asked, self.free, advice)

    def fitting(self, n: int) -> int:
        """Of how many things at once that need as much as was asked for, `n`, should fit, by halves."""
        least = n // 2
        while least > 1 and self.asked and self.free is not None and self.asked * least > self.free * n:
            least //= 2
        return max(1, least)


class Trainer(Protocol):
    """Updates the trained weights of an objective; what `cellfm.train` drives."""

    config: TrainConfig
    scale: "LossScale"

    def __call__(
        self, micro_batches: Sequence[Sequence[Any]], step: int, *, weight: float = 1.0, stop: bool = False
    ) -> StepResult:
        """Update on the micro-batches of step `step`, counted from 0.

        `weight` is what this process's losses count among those of all processes (its targets); `stop` tells all of
        them that this one was asked to stop.
        """

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function(xp, weights, arrays)``, with the weights of the moment, as a function of NumPy arrays to such.

        Several processes must call `gather` first.
        """

    def gather(self) -> Any:
        """Bring weights together that devices share; all processes must ask at once."""

    def weights(self) -> dict[str, np.ndarray]:
        """All weights by flat name; all processes must ask at once."""

    def moments(self) -> dict[str, np.ndarray]:
        """The state of the optimiser by ``moment1.NAME`` and ``moment2.NAME``; all processes must ask at once."""

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take weights and, where they are given, moments, by the names of `weights` and `moments`."""

    def share(self) -> None:
        """Give all processes the weights that process 0 has."""


def decays(name: str) -> bool:
    """Whether weight decay applies to a weight."""
    return not name.endswith(_NO_DECAY)


def relative_rate(name: str, config: TrainConfig) -> float:
    """The factor of the learning rate for a weight."""
    if name == "embed.gene":
        return config.gene_rate
    if name.startswith(HEAD):
        return config.head_rate
    return config.decoder_rate if "decoder" in name else config.other_rate


def not_frozen(names: Iterable[str], config: TrainConfig) -> list[str]:
    """The weights with a rate above zero: only these get gradients and moments, and count in clipping."""
    trained = [name for name in names if relative_rate(name, config)]
    if not trained:
        raise InputError("Nothing to train: the learning rates of all weights are 0. Set one of *_rate above 0.")
    return trained


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of step `step`, counted from 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps)
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * fall)


def dropout_keys(config: TrainConfig, n: int, *place: int) -> np.ndarray:
    """Keys (n,) int32 that follow from the seed, the process, the step and the micro-batch alone."""
    return np.random.default_rng((config.random_state, *place)).integers(-(2**31), 2**31, n, dtype=np.int32)


class LossScale:
    """The factor of a float16 loss: halved at an overflow, doubled after a window of steps without one."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.value = config.loss_scale if config.precision == "float16" else 1.0
        self.steps_since_overflow = 0

    def follow(self, *, overflow: bool) -> None:
        """Take note of a step."""
        if self.config.precision != "float16":
            return
        self.steps_since_overflow = 0 if overflow else self.steps_since_overflow + 1
        if overflow:
            self.value = max(1.0, self.value / 2)
        elif self.steps_since_overflow == self.config.loss_scale_window:
            self.value, self.steps_since_overflow = min(MAX_LOSS_SCALE, self.value * 2), 0
