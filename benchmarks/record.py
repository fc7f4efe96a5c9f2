"""What benchmarks measured, as a JSON line each where ``CELLFM_BENCHMARKS`` names a file, and what machine it was."""

import json
import os
import platform
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

TARGET = "CELLFM_BENCHMARKS"


def record(name: str, **figures: float | str | list | dict) -> None:
    """Keep the figures of one row."""
    if target := os.environ.get(TARGET):
        with Path(target).open("a") as file:
            file.write(json.dumps({"name": name} | figures) + "\n")


def memory_gb(field: str) -> float:
    """Gigabytes of this process: ``"VmRSS"`` what it holds, ``"VmHWM"`` the most that it has held."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1e6


def machine() -> dict[str, str | int]:
    """Processor, cores, memory and versions."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = {name: version(name) for name in ("cellfm", "mindspore", "jax", "numpy") if find_spec(name)}
    return {
        "cpu": model,
        "cores": os.cpu_count() or 0,
        "memory_gib": round(memory),
        "python": platform.python_version(),
    } | packages
