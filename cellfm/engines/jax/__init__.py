"""The engine in JAX: CPUs, NVIDIA GPUs and TPUs; inference and all training."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cellfm.config import TrainConfig
from cellfm.engines.jax.devices import default_device, join_processes, memory_checked, training_mesh
from cellfm.engines.jax.operations import JaxOperations, dtype_of
from cellfm.engines.jax.training import JaxTrainer

__all__ = ["JaxEngine"]


class JaxEngine:
    """See `cellfm.engines.Engine`."""

    name = "jax"
    scans = True
    trainer = JaxTrainer
    join_processes = staticmethod(join_processes)
    memory_checked = staticmethod(memory_checked)

    def __init__(self, precision: str = "float32") -> None:
        self.dtype = dtype_of(precision)
        self.xp = JaxOperations(precision)

    @cached_property
    def device(self) -> jax.Device:
        return default_device()

    @property
    def on_cpu(self) -> bool:
        return self.device.platform == "cpu"

    @property
    def n_local(self) -> int:
        return len(training_mesh().local_devices)

    def total(self, numbers: np.ndarray) -> np.ndarray:
        """Sums over all processes."""
        if jax.process_count() == 1:
            return numbers
        return np.sum(multihost_utils.process_allgather(np.asarray(numbers, np.float32)), 0)

    def check_training(self, config: TrainConfig) -> None:
        """Every configuration can be trained."""

    def place(self, weights: Any) -> Any:
        """Weights on the device."""
        return jax.device_put(weights, self.device)

    def compile(self, function: Callable[..., Any], weights: Any) -> Callable[..., Any]:
        """``function(xp, weights, *arrays)`` as a function of the arrays; it returns before they are computed."""
        compiled = jax.jit(lambda weights, *arrays: function(self.xp, weights, *arrays))
        return lambda *arrays: compiled(weights, *arrays)
