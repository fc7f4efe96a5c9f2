"""Engines compute and differentiate the functions of `cellfm.nn`, update weights and use devices."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from cellfm.config import TrainConfig
from cellfm.engines._fit import apply, fit, shuffled
from cellfm.engines.choice import PRECISIONS, Backend, Precision, start_engine
from cellfm.engines.operations import Array, Operations, Weights
from cellfm.engines.training import FIXED, HEAD, DeviceMemoryError, Objective, StepResult, Trainer, learning_rate
from cellfm.io.installed import require_engine

__all__ = [
    "FIXED",
    "HEAD",
    "PRECISIONS",
    "Array",
    "Backend",
    "DeviceMemoryError",
    "Engine",
    "Objective",
    "Operations",
    "Precision",
    "StepResult",
    "Trainer",
    "Weights",
    "apply",
    "fit",
    "learning_rate",
    "require_engine",
    "shuffled",
    "start_engine",
]


class Engine(Protocol):
    """The interface of an engine for `cellfm.model`, `cellfm.train` and the tasks."""

    name: str
    on_cpu: bool
    dtype: Any
    """Precision of the products of compiled functions."""
    scans: bool
    """Whether many layers of stacked weights are compiled as one."""
    xp: Operations
    trainer: Callable[..., Trainer]
    """See `cellfm.engines.jax.training.JaxTrainer` for its arguments."""

    n_local: int
    """Number of devices of this process; each takes its own micro-batches."""

    memory_checked: Callable[[], AbstractContextManager]
    """A block that raises `DeviceMemoryError` if the device runs out of memory."""

    def join_processes(self) -> tuple[int, int]:
        """The number of this process and of all processes that train together; call it before any computation."""

    def total(self, numbers: np.ndarray) -> np.ndarray:
        """Sums over all processes, in float32. All processes must call it, with equally many numbers."""

    def check_training(self, config: TrainConfig) -> None:
        """Refuse, before any work, a configuration that this engine does not support."""

    def place(self, weights: Any) -> Any:
        """Nested weights, as arrays, on the device."""

    def compile(self, function: Callable[..., Any], weights: Any) -> Callable[..., Any]:
        """``function(xp, weights, *arrays)`` with placed weights as a function of NumPy arrays.

        What it returns becomes NumPy by `numpy.asarray`.
        """
