"""Choose the engine: the requested one, or the best one for this machine."""

import os
from typing import Any, Literal

from cellfm.errors import InputError
from cellfm.io.installed import has_mindspore, require_engine, require_mindspore
from cellfm.settings import settings

Backend = Literal["auto", "mindspore", "jax"]
Precision = Literal["float32", "bfloat16"]
PRECISIONS = ("float32", "bfloat16")
_MSRUN = "MS_ROLE"
"""Environment variable that MindSpore's launcher sets in its processes."""


def start_engine(backend: Backend = "auto", precision: str = "float32") -> Any:
    """The engine of a backend, by default of `cf.settings.backend`, on the device of `cf.settings.device`.

    Raises
    ------
    InputError
        There is no such backend or device, or the engine does not support this precision.
    MissingPackageError
        The engine is not installed; the message names the extra that installs it.
    """
    require_engine(backend)
    backend = settings.backend if backend == "auto" else backend  # type: ignore[assignment]
    ascend = backend != "jax" and _has_ascend()
    if backend == "auto":
        backend = "mindspore" if ascend and precision != "bfloat16" else "jax"
    if backend == "jax" and _MSRUN in os.environ:
        raise InputError("Processes that msrun starts (--workers) compute in MindSpore: do not pass backend='jax'.")
    if backend == "mindspore":
        if precision == "bfloat16" and not ascend:
            raise InputError("precision='bfloat16' in MindSpore needs an Ascend NPU; use backend='jax' or float32.")
        require_mindspore("An Ascend NPU" if ascend else "backend='mindspore'")
        from cellfm.engines.mindspore import MindSporeEngine

        return MindSporeEngine(precision)
    from cellfm.engines.jax import JaxEngine

    return JaxEngine(precision)


def _has_ascend() -> bool:
    """Whether to use MindSpore: an Ascend NPU is requested or present, or msrun started this process."""
    if settings.device == "Ascend" or _MSRUN in os.environ:
        return True
    if settings.device != "auto" or "ASCEND_HOME_PATH" not in os.environ or not has_mindspore():
        return False
    from cellfm.engines.mindspore.devices import has_npu

    return has_npu()
