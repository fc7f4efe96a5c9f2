"""The engine that the environment names: obeyed, overridden by ``--backend``, and refused in words."""

import pytest

import cellfm as cf
from cellfm.cli import main
from cellfm.errors import InputTypeError
from cellfm.io import installed
from cellfm.settings import settings


@pytest.fixture
def without_mindspore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "has_mindspore", lambda: False)
    monkeypatch.setattr(settings, "_backend", "mindspore")


@pytest.mark.usefixtures("own_logger", "without_mindspore")
def test_an_option_overrides_an_environment_that_cannot_be_had(tiny_adata, tiny_model, tmp_path):
    tiny_adata.write_h5ad(tmp_path / "cells.h5ad")
    tiny_model.save(tmp_path / "model")
    command = ["embed", str(tmp_path / "cells.h5ad"), "-o", str(tmp_path / "out.h5ad")]
    command += ["--model", str(tmp_path / "model"), "--backend", "jax"]
    assert main(command) == 0
    assert settings.backend == "mindspore"
    assert main(["info", str(tmp_path / "cells.h5ad")]) == 0
    assert cf.load_model("mini", backend="jax").backend == "jax"


@pytest.mark.usefixtures("own_logger")
def test_an_engine_that_does_not_exist_is_refused_in_words(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(settings, "_backend", "JAX")
    assert main(["demo", "-o", str(tmp_path / "demo")]) == 2
    assert "CELLFM_BACKEND is 'JAX'; it must be one of auto, jax, mindspore" in capsys.readouterr().err


def test_a_model_is_a_model(tiny_adata):
    for wrong in (3, None, ["mini"]):
        with pytest.raises(InputTypeError, match="Expected a model, its name or its path, found"):
            cf.tl.embed(tiny_adata, wrong)
