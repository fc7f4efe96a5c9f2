"""Several processes that train together: MindSpore's own engine, data parallel.

Only sums of float32 and broadcasts are used, which MindSpore supports between processes on CPUs, too.
"""

import os
from collections.abc import Mapping

import mindspore as ms
import numpy as np
from mindspore import ops

from cellfm.errors import InputError

_STARTED = False


def join_processes() -> tuple[int, int]:
    """The number of this process and of all processes: (0, 1) unless MindSpore's launcher started it."""
    if int(os.environ.get("MS_WORKER_NUM", 1)) < 2:
        return 0, 1
    from mindspore.communication import get_group_size, get_rank, init

    from cellfm.engines.mindspore.devices import use_device

    global _STARTED
    if not _STARTED:
        # On CPUs the default timeout is 30 seconds, too short while one process writes a large checkpoint.
        os.environ.setdefault("MS_NODE_TIMEOUT", "3600")
        use_device()
        try:
            init()
        except RuntimeError as error:
            port = os.environ.get("MS_SCHED_PORT", "unknown")
            raise InputError(
                f"The {os.environ['MS_WORKER_NUM']} processes cannot find each other on port {port}: is it in use, or "
                f"closed by a firewall? Choose another with --port. ({error})"
            ) from None
        _STARTED = True
    return get_rank(), get_group_size()


def total(numbers: np.ndarray) -> np.ndarray:
    """Sums over all processes, in float32. All processes must call it, with equally many numbers."""
    _, size = join_processes()
    return numbers if size == 1 else ops.AllReduce()(ms.Tensor(numbers.astype(np.float32))).asnumpy()


def share(parameters: Mapping[str, ms.Parameter]) -> None:
    """Send the numbers of process 0 to all processes."""
    _, size = join_processes()
    if size == 1:
        return
    broadcast = ops.Broadcast(0)
    for parameter in parameters.values():
        parameter.set_data(broadcast((parameter.value(),))[0])
