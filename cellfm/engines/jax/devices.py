"""Devices of JAX: the device of `cf.settings.device`, the mesh for training, and processes on several machines."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cellfm.engines.fork import require_threads
from cellfm.engines.training import DeviceMemoryError
from cellfm.errors import InputError
from cellfm.settings import settings

_LAUNCHERS = (
    ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID", ""),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_TASKS_PER_NODE"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS"),
)
"""Variables that launchers set in their processes: number of processes, of this process, and on each machine.

SLURM_NTASKS cannot be used: batch scripts and shells, which srun did not start, have it, too.
"""
_VISIBLE = ("jax_cuda_visible_devices", "jax_rocm_visible_devices")


def default_device(*, beside_ascend: bool = False) -> jax.Device:
    """The first device of this process on the platform that `cf.settings.device` asks for.

    With `beside_ascend`, for computations by JAX while the network runs on an NPU, this is the CPU.
    """
    require_threads()
    if settings.device == "Ascend" and not beside_ascend:
        raise InputError("cf.settings.device is 'Ascend', which JAX cannot use: pass backend='mindspore' or 'auto'.")
    return jax.local_devices(backend=None if settings.device == "auto" else "cpu")[0]


def training_mesh() -> Mesh:
    """All devices of the platform, of all processes, as the axis ``data``."""
    return Mesh(np.array(jax.devices(default_device().platform)), ("data",))


@cache
def join_processes() -> tuple[int, int]:
    """The number of this process and of all processes that train together: (0, 1) unless a launcher started several.

    Recognised are srun (SLURM), mpirun (Open MPI), and the variables ``JAX_COORDINATOR_ADDRESS``,
    ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``; with the first of them also other launchers that set ``PMI_SIZE``.
    A process that is alone on its machine uses all its devices, others one each.
    """
    launched = _launched()
    if launched is None:
        return 0, 1
    launcher, n_processes, rank, alone = launched
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    try:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        options: dict[str, Any] = {}
        if address and launcher == "JAX_NUM_PROCESSES" and jax.__version_info__ >= (0, 6):
            options["cluster_detection_method"] = "deactivate"
        jax.distributed.initialize(address, n_processes, rank, **options)
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(
            f"This is process {rank} of {n_processes} ({launcher}), and these cannot find each other ({error}). Set "
            "JAX_COORDINATOR_ADDRESS to the machine of process 0 and a free port of it, such as node1:12345, for all."
        ) from error
    if alone:  # otherwise JAX would use only the first device
        for name in _VISIBLE:
            jax.config.update(name, "all")
    return jax.process_index(), jax.process_count()


def _launched() -> tuple[str, int, int, bool] | None:
    """The launcher, the number of processes, the number of this one, and whether it is alone on its machine."""
    for name, rank, on_machine in _LAUNCHERS:
        try:
            n_processes = int(os.environ[name])
            number = int(os.environ[rank])
        except (KeyError, ValueError):
            continue
        if n_processes > 1:
            counts = {count.split("(")[0] for count in os.environ.get(on_machine, "").split(",")}  # SLURM: "2(x3),1"
            return name, n_processes, number, counts == {"1"}
    return None


@contextmanager
def memory_checked() -> Iterator[None]:
    """Context manager and decorator that raises a clear error if the device runs out of memory.

    Raises
    ------
    DeviceMemoryError
        The device ran out of memory.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        device = default_device()
        facts = device.memory_stats() or {}
        free = facts["bytes_limit"] - facts["bytes_in_use"] if "bytes_limit" in facts else None
        raise DeviceMemoryError(str(device), _bytes_asked(str(error)), free) from error


def _bytes_asked(message: str) -> int | None:
    """The memory that XLA could not allocate, if it says so: "1073741824 bytes", "1.00GiB"."""
    asked = re.search(r"allocat\w+ (\d+(?:\.\d+)?) ?(bytes|[KMGT]i?B)", message)
    if asked is None:
        return None
    return int(float(asked[1]) * 1024 ** " KMGT".index(asked[2][0] if asked[2] != "bytes" else " "))
