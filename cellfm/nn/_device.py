"""Where the network runs."""

import os

import mindspore as ms

from cellfm.errors import InputError
from cellfm.settings import settings


def use_device() -> str:
    """Put MindSpore on the device of `cf.settings.device`; returns its name.

    Raises
    ------
    InputError
        The device asked for is not there.
    """
    name = settings.device
    available = has_npu()
    if name == "auto":
        name = "Ascend" if available else "CPU"
    if name == "Ascend" and not available:
        raise InputError(
            "cf.settings.device is 'Ascend', but there is no Ascend NPU here that MindSpore can use (is CANN's "
            "set_env.sh sourced?). Use 'CPU' or 'auto'."
        )
    if ms.get_context("device_target") != name:
        try:
            ms.set_device(name)
        except RuntimeError as error:
            raise InputError(
                f"MindSpore already runs on another device in this process and cannot move to {name}: set "
                "cf.settings.device before anything is computed."
            ) from error
    return name


def has_npu() -> bool:
    """Whether there is an Ascend NPU that MindSpore can use."""
    # Asking MindSpore loads its NPU libraries and complains where they are not; without CANN there is no NPU.
    return "ASCEND_HOME_PATH" in os.environ and ms.hal.is_available("Ascend")
