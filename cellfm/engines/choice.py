"""Which engine computes: the one asked for, or the one that the machine does best with."""

import os
from typing import Any, Literal

from cellfm.errors import InputError
from cellfm.io.installed import has_mindspore, require_engine, require_mindspore
from cellfm.settings import settings

Backend = Literal["auto", "mindspore", "jax"]
Precision = Literal["float32", "bfloat16"]
PRECISIONS = ("float32", "bfloat16")
_MSRUN = "MS_ROLE"
"""What MindSpore's launcher sets in the processes that it starts."""


def start_engine(backend: Backend = "auto", precision: str = "float32") -> Any:
    """The engine of a backend, by default of `cf.settings.backend`, on the device of `cf.settings.device`.

    Raises
    ------
    InputError
        No such backend or device, or the engine does not have this precision.
    MissingPackageError
        The engine is not installed; the message names the extra that brings it.
    """
    require_engine(backend)
    backend = settings.backend if backend == "auto" else backend  # type: ignore[assignment]
    ascend = backend != "jax" and _has_ascend()
    if backend == "auto":
        backend = "mindspore" if ascend and precision != "bfloat16" else "jax"
    if backend == "jax" and _MSRUN in os.environ:
        raise InputError("Processes that msrun starts (--workers) compute in MindSpore: leave backend='jax' out.")
    if backend == "mindspore":
        if precision == "bfloat16" and not ascend:
            raise InputError("precision='bfloat16' in MindSpore needs an Ascend NPU; use backend='jax' or float32.")
        require_mindspore("An Ascend NPU" if ascend else "backend='mindspore'")
        from cellfm.engines.mindspore import MindSporeEngine

        return MindSporeEngine(precision)
    from cellfm.engines.jax import JaxEngine

    return JaxEngine(precision)


def _has_ascend() -> bool:
    """Whether MindSpore is meant: an Ascend NPU is, or there is one, or msrun started this process."""
    if settings.device == "Ascend" or _MSRUN in os.environ:
        return True
    if settings.device != "auto" or "ASCEND_HOME_PATH" not in os.environ or not has_mindspore():
        return False
    from cellfm.engines.mindspore.devices import has_npu

    return has_npu()
