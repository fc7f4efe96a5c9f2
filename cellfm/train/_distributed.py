"""Several processes that train together: MindSpore's own engine, data parallel."""

import os

_STARTED = False


def processes() -> tuple[int, int]:
    """The number of this process and how many there are: (0, 1) unless MindSpore's launcher started it.

    Raises
    ------
    InputError
        The processes cannot find each other.
    """
    if "MS_WORKER_NUM" not in os.environ or int(os.environ["MS_WORKER_NUM"]) < 2:
        return 0, 1
    from mindspore.communication import get_group_size, get_rank, init

    from cellfm.errors import InputError
    from cellfm.nn import use_device

    global _STARTED
    if not _STARTED:
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
