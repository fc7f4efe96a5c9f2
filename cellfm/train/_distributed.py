"""Several processes that train together: MindSpore's own engine, data parallel.

Only sums of float32 and broadcasts are used: what MindSpore can do between processes on the CPU as well.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping

import mindspore as ms
import numpy as np
from mindspore import ops

from cellfm.errors import InputError

_STARTED = False


def processes() -> tuple[int, int]:
    """The number of this process and how many there are: (0, 1) unless MindSpore's launcher started it.

    Raises
    ------
    InputError
        The processes cannot find each other.
    """
    if int(os.environ.get("MS_WORKER_NUM", 1)) < 2:
        return 0, 1
    from mindspore.communication import get_group_size, get_rank, init

    from cellfm.nn import use_device

    global _STARTED
    if not _STARTED:
        # On a CPU they give each other 30 seconds, too little for one that writes a large checkpoint.
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


def total(numbers: Iterable[float]) -> np.ndarray:
    """Sums over all processes, in float32. All must call it, with as many numbers."""
    array = np.array(list(numbers))
    _, size = processes()
    return array if size == 1 else ops.AllReduce()(ms.Tensor(array.astype(np.float32))).asnumpy()


def wait_for_all() -> None:
    """Return when all processes have come here."""
    total([1.0])


def require_same(facts: Mapping[str, object]) -> None:
    """Check that all processes see the same; all must call it with the same names.

    Raises
    ------
    InputError
        They do not; the message names what differs, and where.
    """
    rank, size = processes()
    for name, fact in facts.items():
        digest = np.frombuffer(hashlib.sha256(repr(fact).encode()).digest(), np.uint8)
        mine = np.zeros((size, len(digest)), np.float32)
        mine[rank] = digest
        seen = total(mine.ravel()).reshape(size, -1)
        other = np.flatnonzero((seen != seen[0]).any(1))
        if len(other):
            raise InputError(
                f"The processes do not see the same {name}: process {other[0]} of {size} differs from process 0. All "
                "must be given the same corpus, configuration and folder of the run, on every machine."
            )


def share(parameters: Mapping[str, ms.Parameter]) -> None:
    """Give all processes the numbers that process 0 has."""
    _, size = processes()
    if size == 1:
        return
    broadcast = ops.Broadcast(0)
    for parameter in parameters.values():
        parameter.set_data(broadcast((parameter.value(),))[0])
