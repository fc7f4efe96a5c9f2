"""The engine in MindSpore: Ascend NPUs, and CPUs, on which it is tested."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
from mindspore import ops

from cellfm.config import TrainConfig
from cellfm.engines.mindspore.devices import use_device
from cellfm.engines.mindspore.distributed import join_processes, total
from cellfm.engines.mindspore.operations import MindSporeOperations
from cellfm.engines.mindspore.training import MindSporeTrainer, compiled, parameters
from cellfm.errors import InputError
from cellfm.io.logging import logger

__all__ = ["MindSporeEngine"]


class MindSporeEngine:
    """See `cellfm.engines.Engine`."""

    name = "mindspore"
    scans = False
    trainer = MindSporeTrainer
    join_processes = staticmethod(join_processes)
    memory_checked = nullcontext

    def __init__(self, precision: str = "float32") -> None:
        self.on_cpu = use_device() == "CPU"
        self.dtype = np.dtype(np.float32)
        self.xp = MindSporeOperations(precision)

    n_local = 1

    def total(self, numbers: np.ndarray) -> np.ndarray:
        """Sums over all processes."""
        return total(numbers)

    def check_training(self, config: TrainConfig) -> None:
        """Refuse what MindSpore cannot do."""
        if config.precision == "bfloat16" and self.on_cpu:
            raise InputError(
                "MindSpore does not multiply in bfloat16 on CPUs: use precision = 'float32', or backend='jax'."
            )
        if config.shard_weights:
            raise InputError("shard_weights = true needs backend='jax'; MindSpore has only shard_optimizer = true.")
        if config.recompute:
            logger.warning("recompute = true has no effect in MindSpore, which keeps the activations of all layers.")

    def place(self, weights: Any) -> Any:
        """Weights as parameters, which the compiler treats as inputs and not as constants."""
        return parameters(weights)

    def compile(self, function: Callable[..., Any], weights: Any) -> Callable[..., Any]:
        """``function(xp, weights, *arrays)`` as a function of the arrays."""
        xp = self.xp

        def forward(*arrays):
            # Bound first: a starred call packs its arguments, and would nest weights deeper than MindSpore allows.
            return ops.partial(function, xp, weights)(*arrays)

        return compiled(forward)
