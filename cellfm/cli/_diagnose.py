"""Checks of ``cellfm doctor``: Python, packages, engines, devices, models, disk, memory, a file; without network."""

import json
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from cellfm.errors import InputError
from cellfm.io.installed import has_mindspore, how_to_install
from cellfm.settings import model_folder, settings

Status = Literal["ok", "warning", "problem"]

_GIB = 1 << 30
_ENOUGH_DISK = 2 * _GIB
_ENOUGH_MEMORY = 4 * _GIB
_ANEW = "install cellfm again as you did at first, with --force-reinstall after pip install"
_PATIENCE = 180  # seconds for an engine to start, long enough for slow disks
# In a separate process, so that a crash of an engine can be reported.
_PROBES = {
    "JAX": """
import json
import jax
from cellfm.settings import settings
devices = jax.devices("cpu" if settings.device == "CPU" else None)
ones = jax.device_put(jax.numpy.ones((64, 64), "float32"), devices[0])
kinds = {"cpu": "CPU", "gpu": "GPU", "tpu": "TPU"}
name = kinds.get(devices[0].platform, devices[0].platform)
kind = devices[0].device_kind
name += "" if kind.upper() == name else f" ({kind})"
name += f", {len(devices)} of them" if len(devices) > 1 else ""
print(json.dumps([name, float((ones @ ones + 1).sum())]))
""",
    "MindSpore": """
import json
from cellfm.engines.mindspore.devices import use_device
import mindspore as ms
device = use_device()
ones = ms.ops.ones((64, 64), ms.float32)
print(json.dumps([device, float((ones @ ones + 1).sum().asnumpy())]))
""",
}
_EXPECTED = 64.0 * 64 * 65


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    status: Status
    detail: str
    fix: str = ""
    """What to do; empty if nothing is wrong."""


def diagnose(cells: Path | None = None, *, genome: str | None = None, **options: Any) -> list[Finding]:
    """Check everything that cellfm needs, and optionally a file of cells; takes as long as the engines need to start.

    Parameters
    ----------
    cells
        A file of cells.
    genome
        As `cf.cells.read_cells` takes it.
    **options
        Those of `cf.pp.check`.
    """
    findings = [_python(), *_packages(), *_engines(), _mini(), _cache(), _memory()]
    return findings if cells is None else [*findings, *_cells(cells, genome, options)]


def _cells(path: Path, genome: str | None, options: dict[str, Any]) -> list[Finding]:
    """Whether a file of cells can be read, and the result of `cf.pp.check`."""
    from cellfm.cells.read import cell_format, read_cells
    from cellfm.cells.read_anndata import closing
    from cellfm.pp import check

    try:
        kind = cell_format(path, genome=genome)
        data = read_cells(path, backed=kind in ("h5ad", "zarr") and genome is None, genome=genome)
        with closing(data):
            report = check(data, **options)
    except InputError as error:
        return [Finding("cells", "problem", "cannot be read or checked", str(error))]
    size = f"{kind}, {report.n_cells:,} cells x {report.n_genes:,} genes, {report.n_known:,} known to 'mini'"
    problems = [Finding("cells", "problem", "'mini' cannot take them", text) for text in report.problems]
    advice = [Finding("cells", "warning", "can be better", text) for text in report.advice]
    return [Finding("cells", "ok", f"{path}: {size}"), *problems, *advice]


def _python() -> Finding:
    from packaging.specifiers import SpecifierSet

    version, needed = platform.python_version(), metadata.metadata("cellfm")["Requires-Python"]
    if SpecifierSet(needed).contains(version, prereleases=True):
        return Finding("Python", "ok", f"{version} at {sys.executable}")
    return Finding("Python", "problem", f"{version}; needed is {needed}", "Make an environment with Python 3.11.")


def _packages(extra: str = "") -> list[Finding]:
    """The packages that cellfm needs, or those that an extra adds."""
    from packaging.requirements import Requirement

    needed = [Requirement(line) for line in metadata.requires("cellfm") or []]
    always = [r for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    if extra:
        needed = [r for r in needed if r not in always and r.marker and r.marker.evaluate({"extra": extra})]
    return [_package(r.name, r.specifier, extra) for r in (needed if extra else always)]


def _package(name: str, needed: object, extra: str) -> Finding:
    fix = f"pip install '{name}{needed}'"
    shown = f"{name} for {extra}" if extra and name != extra else name
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(shown, "problem", f"not installed; needed is {needed}", fix)
    if needed.contains(version, prereleases=True):  # type: ignore[attr-defined]
        return Finding(shown, "ok", version)
    reason = "; MindSpore is built against NumPy 1, its results cannot be trusted" if name == "numpy" else ""
    return Finding(shown, "problem", f"{version}; needed is {needed}{reason}", fix)


def _engines() -> list[Finding]:
    """Whether each engine computes, on which device, and for what."""
    findings, devices = [], {}
    for name in _PROBES:
        if name == "MindSpore" and not has_mindspore():
            findings.append(Finding(name, "ok", f"not installed, an extra. {how_to_install()}"))
            continue
        if name == "MindSpore":
            findings += [one for one in _packages("mindspore") if one.status != "ok" or one.name == "mindspore"]
        finding, devices[name] = _engine(name)
        findings.append(finding)
    chosen = "MindSpore" if devices.get("MindSpore") == "Ascend" else "JAX"
    where = devices.get(chosen)
    findings.append(
        Finding("embedding, training", "ok", f"{chosen} on {where}" if where else f"not here: {chosen} fails")
    )
    return findings


def _engine(name: str) -> tuple[Finding, str | None]:
    """Whether an engine computes, and on what device."""
    try:
        ran = subprocess.run(  # noqa: S603 (our own program)
            [sys.executable, "-c", _PROBES[name]],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            cwd=tempfile.gettempdir(),  # MindSpore leaves folders in the working directory
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _broken(name, f"gave no answer within {_PATIENCE} s"), None
    if ran.returncode < 0:
        return _broken(name, f"crashed with signal {-ran.returncode}"), None
    if ran.returncode:
        return _broken(name, (ran.stderr.strip().splitlines() or ["no message"])[-1]), None
    device, total = json.loads(ran.stdout.strip().splitlines()[-1])
    if total != _EXPECTED:
        return _broken(name, f"computes wrongly on {device}: {total} instead of {_EXPECTED}"), None
    return Finding(f"{name} runs", "ok", f"a first product is right, on {device}"), device


def _broken(name: str, detail: str) -> Finding:
    return Finding(
        f"{name} runs",
        "problem",
        detail,
        f"Mend what is said above of the packages, or {_ANEW}. Where the device is to blame, set CELLFM_DEVICE=CPU.",
    )


def _mini() -> Finding:
    folder = model_folder("mini")
    try:
        from cellfm.model import load_model

        model = load_model("mini")
    except (InputError, ImportError, OSError) as error:
        return Finding("model 'mini'", "problem", f"{error} (looked in {folder})", f"{_ANEW.capitalize()}.")
    return Finding("model 'mini'", "ok", str(model).splitlines()[0])


def _cache() -> Finding:
    folder = settings.cache_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        fix = "Set CELLFM_CACHE_DIR to a folder that you may write to."
        return Finding("cache folder", "problem", f"{folder} cannot be written: {error.strerror or error}", fix)
    free = shutil.disk_usage(folder).free
    detail = f"{folder}, {free / _GIB:.1f} GiB free"
    if free < _ENOUGH_DISK:
        fix = "Converting a published model needs 1.5 GB (80M) or 13 GB (800M): make room, or set CELLFM_CACHE_DIR."
        return Finding("cache folder", "warning", detail, fix)
    return Finding("cache folder", "ok", detail)


def _memory() -> Finding:
    free = _free_memory()
    if free is None:
        return Finding("memory", "ok", "cannot be told on this system")
    detail = f"{free / _GIB:.1f} GiB free"
    if free < _ENOUGH_MEMORY:
        return Finding("memory", "warning", detail, "Close other programs, use the model 'mini' or a small batch_size.")
    return Finding("memory", "ok", detail)


def _free_memory() -> int | None:
    """Bytes available to a new program, or None if the system does not say."""
    limits = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")  # the limit of a container
        limits.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # another system, or no limit
        pass
    return min(limits, default=None)
