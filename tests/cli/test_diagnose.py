"""The doctor finds what is wrong, names the fix, survives what it looks at, and needs no network."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from anndata import AnnData

from cellfm.cli import _diagnose
from cellfm.cli._diagnose import Finding, diagnose
from cellfm.cli._main import main
from cellfm.genes.vocabulary import resolve_vocabulary
from cellfm.io.installed import has_mindspore
from cellfm.model import CellFM
from cellfm.settings import settings


def version_that_is(monkeypatch: pytest.MonkeyPatch, package: str, version: str | None) -> None:
    """Let one package seem to have another version, or to be missing."""
    real = metadata.version

    def told(name: str) -> str:
        if name != package:
            return real(name)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", told)


def one(findings: list[Finding], name: str) -> Finding:
    (found,) = [finding for finding in findings if finding.name == name]
    return found


def test_everything_is_looked_at_and_the_test_environment_is_sound():
    findings = diagnose()
    names = [finding.name for finding in findings]
    engine = "MindSpore runs" if has_mindspore() else "MindSpore"
    expected = ("Python", "numpy", "anndata", "JAX runs", engine, "model 'mini'", "cache folder", "memory")
    assert set(expected) <= set(names)
    assert len(names) == len(set(names))
    assert {one(findings, name).status for name in ("JAX runs", engine)} == {"ok"}
    assert re.fullmatch("(JAX|MindSpore) on (CPU|GPU|TPU|Ascend).*", one(findings, "embedding, training").detail)
    for finding in findings:
        assert bool(finding.fix) == (finding.status != "ok")


def test_an_engine_that_is_not_installed_is_no_problem(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mindspore", None)
    monkeypatch.setattr(_diagnose, "_engine", lambda name: (Finding(f"{name} runs", "ok", "well"), "GPU (a large one)"))
    findings = _diagnose._engines()
    assert {finding.status for finding in findings} == {"ok"}
    assert "cellfm[mindspore]" in one(findings, "MindSpore").detail
    assert one(findings, "embedding, training").detail == "JAX on GPU (a large one)"


def test_an_npu_is_used_for_all(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_diagnose, "has_mindspore", lambda: True)
    monkeypatch.setattr(_diagnose, "_packages", lambda extra: [])
    device = {"JAX": "CPU", "MindSpore": "Ascend"}
    monkeypatch.setattr(_diagnose, "_engine", lambda name: (Finding(f"{name} runs", "ok", "well"), device[name]))
    findings = _diagnose._engines()
    assert one(findings, "embedding, training").detail == "MindSpore on Ascend"


def test_numpy_2_beside_mindspore_is_a_problem_with_its_cure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metadata, "requires", lambda _: ["numpy>=1.26", 'numpy<2; extra == "mindspore"'])
    version_that_is(monkeypatch, "numpy", "2.1.0")
    assert one(_diagnose._packages(), "numpy").status == "ok"
    found = one(_diagnose._packages("mindspore"), "numpy for mindspore")
    assert found.status == "problem"
    assert "2.1.0" in found.detail
    assert "NumPy 1" in found.detail
    assert found.fix.startswith("pip install 'numpy")
    assert "<2" in found.fix


@pytest.mark.parametrize("version", [None, "0.1"])
def test_missing_and_outdated_packages_are_problems(monkeypatch: pytest.MonkeyPatch, version: str | None):
    version_that_is(monkeypatch, "anndata", version)
    findings = _diagnose._packages()
    found = one(findings, "anndata")
    assert found.status == "problem"
    assert found.fix.startswith("pip install 'anndata>=")
    assert [finding for finding in findings if finding.status != "ok"] == [found]


def test_another_python_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("platform.python_version", lambda: "3.10.0")
    found = _diagnose._python()
    assert found.status == "problem"
    assert "3.10.0" in found.detail
    assert _diagnose._python().fix


@pytest.mark.parametrize(
    ("program", "found"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed with signal 11"),
        ("raise SystemError('numpy was compiled otherwise')", "SystemError: numpy was compiled otherwise"),
        ("import time; time.sleep(60)", "no answer within 0.5 s"),
        ("import sys; sys.exit(3)", "no message"),
        ("print('[\"CPU\", 12.0]')", "computes wrongly on CPU: 12.0"),
    ],
)
def test_a_broken_engine_is_reported_and_not_suffered(monkeypatch: pytest.MonkeyPatch, program: str, found: str):
    monkeypatch.setitem(_diagnose._PROBES, "MindSpore", program)
    monkeypatch.setattr(_diagnose, "_PATIENCE", 0.5 if "sleep" in program else 30)
    finding, device = _diagnose._engine("MindSpore")
    assert device is None
    assert finding.status == "problem"
    assert found in finding.detail
    assert "CELLFM_DEVICE=CPU" in finding.fix


def test_a_device_that_is_not_there_is_reported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CELLFM_DEVICE", "abacus")
    finding, _ = _diagnose._engine("JAX")
    assert finding.status == "problem"
    assert "CELLFM_DEVICE is 'abacus'" in finding.detail


def test_the_bundled_model_must_be_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: CellFM):
    monkeypatch.setattr(_diagnose, "model_folder", lambda name: tmp_path / "mini")
    monkeypatch.setattr("cellfm.model._load.model_folder", lambda name: tmp_path / "mini")
    assert _diagnose._mini().status == "problem"
    tiny_model.save(tmp_path / "mini")
    assert _diagnose._mini().status == "ok"
    weights = tmp_path / "mini" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    found = _diagnose._mini()
    assert found.status == "problem"
    assert "damaged or incomplete" in found.detail
    assert found.fix


def test_a_cache_that_cannot_be_written_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(settings, "_cache_dir", tmp_path / "file" / "cache")
    found = _diagnose._cache()
    assert found.status == "problem"
    assert str(tmp_path / "file" / "cache") in found.detail
    assert "CELLFM_CACHE_DIR" in found.fix


def test_little_disk_and_memory_are_warnings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_diagnose, "_ENOUGH_DISK", 1 << 60)
    monkeypatch.setattr(_diagnose, "_ENOUGH_MEMORY", 1 << 60)
    monkeypatch.setattr(_diagnose, "_free_memory", lambda: 1 << 30)
    assert (_diagnose._cache().status, _diagnose._memory().status) == ("warning", "warning")
    assert "1.0 GiB free" in _diagnose._memory().detail


def test_the_doctor_starts_without_the_packages_that_it_looks_for(tmp_path: Path):
    heavy = ("mindspore", "numpy", "pandas", "anndata", "safetensors", "scipy")
    code = f"import sys; sys.modules.update(dict.fromkeys({heavy!r})); import cellfm.cli, cellfm.cli._diagnose"
    code += "; print([f.status for f in [cellfm.cli._diagnose._mini(), *cellfm.cli._diagnose._packages()]][0])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert ran.stdout.strip() == "problem"


def test_a_file_of_cells_is_looked_at(tmp_path: Path, tiny_adata: AnnData):
    path = tmp_path / "cells.h5ad"
    tiny_adata.var_names = [*resolve_vocabulary("mini").symbols[: tiny_adata.n_vars]]
    tiny_adata.var["feature_types"] = ["Gene Expression"] * (tiny_adata.n_vars - 4) + ["Antibody Capture"] * 4
    tiny_adata.write_h5ad(path)
    read, *others = _diagnose._cells(path, None, {})
    assert (read.status, read.detail) == (
        "ok",
        f"{path}: h5ad, 40 cells x {tiny_adata.n_vars - 4} genes, {tiny_adata.n_vars - 4} known to 'mini'",
    )
    assert any(one.status == "warning" and "4 Antibody Capture" in one.fix for one in others)
    tiny_adata.X = tiny_adata.X * 0.3
    tiny_adata.write_h5ad(path)
    assert [one for one in _diagnose._cells(path, None, {}) if one.status == "problem" and "No counts" in one.fix]
    (tmp_path / "cells.rds").write_bytes(b"X\n\x00\x00\x00\x03rest")
    (finding,) = _diagnose._cells(tmp_path / "cells.rds", None, {})
    assert finding.status == "problem"
    assert "readRDS" in finding.fix


@pytest.mark.usefixtures("own_logger")
def test_doctor_takes_the_options_of_the_other_commands(tmp_path: Path, tiny_adata: AnnData, monkeypatch, capsys):
    for part in ("_packages", "_engines"):
        monkeypatch.setattr(_diagnose, part, list)
    for part in ("_python", "_mini", "_cache", "_memory"):
        monkeypatch.setattr(_diagnose, part, lambda: _diagnose.Finding("part", "ok", "fine"))
    symbols = [*resolve_vocabulary("mini").symbols[: tiny_adata.n_vars]]
    tiny_adata.var["names"], tiny_adata.var["others"] = symbols, symbols[::-1]
    tiny_adata.var_names = [str(i) for i in range(tiny_adata.n_vars)]
    tiny_adata.layers["umi"], tiny_adata.X = tiny_adata.X.copy(), tiny_adata.X * 0.3
    path = tmp_path / "cells.h5ad"
    tiny_adata.write_h5ad(path)
    assert main(["doctor", str(path)]) == 1
    said = capsys.readouterr().out
    assert "pass --layer umi" in said  # an option that it has
    assert "--gene-key with the column" in said
    assert main(["doctor", str(path), "--layer", "umi", "--gene-key", "names", "--hgnc", "none"]) == 0
    said = capsys.readouterr().out
    assert f"{tiny_adata.n_vars} known to 'mini'" in said
    assert main(["doctor", str(path), "--layer", "umi", "--gene-key", "var_names"]) == 1
    assert main(["doctor", str(path), "--layer", "other"]) == 1
    assert "cannot be read or checked" in capsys.readouterr().out
