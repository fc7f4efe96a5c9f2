"""Which engine computes: the one asked for, or the one that the machine does best with."""

import os
from typing import Any, Literal

from cellfm.engines.installed import has_mindspore, require_mindspore
from cellfm.errors import InputError
from cellfm.settings import settings

Backend = Literal["auto", "mindspore", "jax"]
BACKENDS = ("auto", "mindspore", "jax")
Precision = Literal["float32", "bfloat16"]
PRECISIONS = ("float32", "bfloat16")
_MSRUN = "MS_ROLE"
"""What MindSpore's launcher sets in the processes that it starts."""


def start_engine(backend: Backend = "auto", precision: str = "float32") -> Any:
    """The engine of a backend, on the device of `cf.settings.device`.

    Raises
    ------
    InputError
        No such backend or device, or the engine does not have this precision.
    MissingPackageError
        The engine is not installed; the message names the extra that brings it.
    """
    require_engine(backend)
    if backend == "auto":
        backend = "mindspore" if _has_ascend() and precision != "bfloat16" else "jax"
    if backend == "jax" and _MSRUN in os.environ:
        raise InputError("Processes that msrun starts (--workers) compute in MindSpore: leave backend='jax' out.")
    if backend == "mindspore":
        if precision == "bfloat16" and not _has_ascend():
            raise InputError("precision='bfloat16' in MindSpore needs an Ascend NPU; use backend='jax' or float32.")
        require_mindspore("An Ascend NPU" if _has_ascend() else "backend='mindspore'")
        from cellfm.engines.mindspore import MindSporeEngine

        return MindSporeEngine(precision)
    from cellfm.engines.jax import JaxEngine

    return JaxEngine(precision)


def require_engine(backend: Backend) -> None:
    """Refuse a backend that does not exist or is not installed, before any work.

    Raises
    ------
    InputError
        No such backend.
    MissingPackageError
        Its engine is not installed; the message names the extra that brings it.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, not {backend!r}.")
    if backend == "mindspore":
        require_mindspore("backend='mindspore'")


def _has_ascend() -> bool:
    """Whether MindSpore is meant: an Ascend NPU is, or there is one, or msrun started this process."""
    if settings.device == "Ascend" or _MSRUN in os.environ:
        return True
    if settings.device != "auto" or "ASCEND_HOME_PATH" not in os.environ or not has_mindspore():
        return False
    from cellfm.engines.mindspore.devices import has_npu

    return has_npu()
