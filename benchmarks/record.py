"""What benchmarks measured, when, by which code and weights, on what machine: the files of `benchmarks/results`.

A measure of speed also writes its row as a JSON line where ``CELLFM_BENCHMARKS`` names a file.
"""

import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellfm.model import CellFM

TARGET = "CELLFM_BENCHMARKS"
RESULTS = Path(__file__).parent / "results"
Results = dict | list[dict]
"""One run with its facts, or several."""


def facts(model: "CellFM | None" = None) -> dict[str, str | dict]:
    """Facts of a run that starts now: commit, date and machine, and which model it was."""
    known: dict[str, str | dict] = {"commit": commit(), "date": datetime.now(UTC).date().isoformat()}
    known["machine"] = machine()
    return known | ({"model": model.name, "weights_sha256": model.weights_hash} if model else {})


def commit() -> str:
    """What the checkout is at; ends in ``-dirty`` if code has changed since, other than results and pages."""

    def git(*arguments: str) -> str:
        command = ("git", "-C", str(RESULTS.parent.parent), *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "cellfm/*.py", "benchmarks/*.py")
    return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")


def save_results(name: str, results: Results, path: Path | None = None) -> Path:
    """Write `benchmarks/results/NAME.json`, or another file."""
    path = path or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\n *", " ", found[0]), text)  # a list of values is a line
    path.write_text(text + "\n")
    return path


def load_results(name: str, path: Path | None = None) -> Results:
    """What `save_results` wrote; an empty list where there is nothing yet."""
    path = path or RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else []


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
