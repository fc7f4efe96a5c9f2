"""Which engine computes: what each machine gets, and what is refused before any work."""

import importlib.util
import sys

import numpy as np
import pytest

import cellfm as cf
from cellfm.cli import _demo, main
from cellfm.config import TrainConfig
from cellfm.engines import choice, require_engine, start_engine
from cellfm.errors import InputError, MissingPackageError
from cellfm.settings import settings


@pytest.fixture(autouse=True)
def _plain_machine(monkeypatch):
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    monkeypatch.delenv("MS_ROLE", raising=False)
    monkeypatch.setattr(settings, "_device", "auto")


def test_auto_is_jax_without_an_ascend_npu(monkeypatch):
    for device in ("auto", "CPU"):
        monkeypatch.setattr(settings, "_device", device)
        engine = start_engine("auto")
        assert engine.name == "jax"
        assert engine.on_cpu or device == "auto"


def test_each_engine_is_the_one_asked_for(engine):
    started = start_engine(engine.name)
    assert started.name == engine.name
    assert started.dtype == np.float32
    assert started.n_local == 1
    assert started.join_processes() == (0, 1)
    np.testing.assert_array_equal(started.total(np.array([1.5, 2], np.float32)), [1.5, 2])
    started.check_training(TrainConfig())


@pytest.mark.parametrize("backend", ["torch", "", "JAX"])
def test_other_backends_do_not_exist(backend):
    for refuse in (require_engine, start_engine):
        with pytest.raises(InputError, match=f"one of 'auto', 'jax', 'mindspore', not '{backend}'"):
            refuse(backend)


def test_a_missing_engine_names_the_extra(monkeypatch, capsys):
    real = importlib.util.find_spec
    for module in (choice, importlib.util, *(m for m in [sys.modules.get("cellfm.io.installed")] if m)):
        if hasattr(module, "find_spec"):
            monkeypatch.setattr(module, "find_spec", lambda name, *a: None if name == "mindspore" else real(name, *a))
    for refuse in (require_engine, start_engine):
        with pytest.raises(MissingPackageError, match=r"cellfm\[mindspore\]"):
            refuse("mindspore")
    with pytest.raises(MissingPackageError, match=r"cellfm\[mindspore\]"):
        cf.settings.backend = "mindspore"
    assert main(["embed", "no.h5ad", "-o", "out.h5ad", "--backend", "mindspore"]) == 2
    assert "cellfm[mindspore]" in capsys.readouterr().err
    assert start_engine("auto").name == "jax"


def test_auto_is_what_the_session_chose(engine, monkeypatch):
    monkeypatch.setattr(settings, "_backend", engine.name)
    assert start_engine("auto").name == start_engine().name == engine.name
    assert start_engine("jax").name == "jax"
    monkeypatch.setattr(settings, "_backend", "torch")
    with pytest.raises(InputError, match="CELLFM_BACKEND is 'torch'; it must be one of auto, jax, mindspore"):
        start_engine()


def test_a_command_computes_by_its_backend(monkeypatch):
    seen = []
    monkeypatch.setattr(_demo, "run_demo", lambda *_, **__: seen.append(settings.backend))
    for backend in ("jax", "auto"):
        assert main(["demo", "--backend", backend]) == 0
    assert (seen, settings.backend) == (["jax", "auto"], "auto")


def test_what_an_engine_cannot_do_is_refused_or_said(engine, monkeypatch, caplog):
    if engine.name == "jax":
        monkeypatch.setattr(settings, "_device", "Ascend")
        with pytest.raises(InputError, match="'Ascend', which JAX cannot use"):
            start_engine("jax").place({"x": np.ones(2, np.float32)})
        monkeypatch.setenv("MS_ROLE", "MS_WORKER")
        with pytest.raises(InputError, match="msrun"):
            start_engine("jax")
        return
    with pytest.raises(InputError, match="bfloat16"):
        start_engine("mindspore", "bfloat16")
    with pytest.raises(InputError, match="does not multiply in bfloat16 on CPUs"):
        engine.check_training(TrainConfig(precision="bfloat16"))
    with pytest.raises(InputError, match="shard_weights = true needs backend='jax'"):
        engine.check_training(TrainConfig(shard_weights=True))
    engine.check_training(TrainConfig(recompute=True))
    assert "recompute = true has no effect in MindSpore" in caplog.text
    monkeypatch.setattr(settings, "_device", "Ascend")
    with pytest.raises(InputError, match="no Ascend NPU"):
        start_engine("mindspore")


@pytest.mark.parametrize("wrong", [{"backend": "torch"}, {"precision": "float16"}])
def test_wrong_choices_are_refused_before_anything_is_read(wrong):
    with pytest.raises(InputError, match=[*wrong.values()][-1]):
        cf.load_model("no such model", **wrong)
