"""What an engine cannot do, and an engine that is missing, is refused before any work, by everything that learns."""

from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

import cellfm as cf
from cellfm.cli._main import main
from cellfm.config import TrainConfig
from cellfm.corpus._cell_table import CellTable
from cellfm.engines import start_engine
from cellfm.engines.jax.training import JaxTrainer
from cellfm.errors import InputError, MissingPackageError
from cellfm.io import installed as _extras
from cellfm.model import CellFM
from cellfm.train import finetune, pretrain, write_shards

CONFIG = {
    "model": {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_value": 8},
    "train": {"steps": 2, "batch_size": 4, "n_chunks": 16, "train_genes": 60},
}


@pytest.fixture
def corpus(tmp_path: Path, tiny_adata: AnnData, tiny_model: CellFM) -> Path:
    write_shards(tiny_adata, tmp_path / "corpus", model=tiny_model.vocab, validation_fraction=0.2)
    return tmp_path / "corpus"


@pytest.fixture
def cells(tiny_adata: AnnData, tiny_model: CellFM) -> CellTable:
    ids = np.concatenate((np.arange(1, 301), np.zeros(20))).astype(np.int32)
    return CellTable.from_counts(tiny_adata.X, ids, tiny_model.vocab, np.arange(40) % 4 == 0)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CellFM, "encode", lambda *_, **__: pytest.fail("it has begun to embed"))
    monkeypatch.setattr(JaxTrainer, "__init__", lambda *_, **__: pytest.fail("it has begun to train"))


@pytest.mark.usefixtures("no_work")
def test_a_missing_engine_is_named_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_adata: AnnData, tiny_model: CellFM, corpus: Path, cells
):
    monkeypatch.setattr(_extras, "find_spec", lambda _: None)
    before, chosen = repr(tiny_adata), {"backend": "mindspore"}
    for learn in (
        lambda: pretrain(corpus, CONFIG, out=tmp_path / "run", **chosen),
        lambda: finetune(tiny_model, cells, **chosen),
        lambda: cf.tl.integrate(tiny_adata, tiny_model, batch_key="batch", **chosen),
        lambda: cf.tl.fit_annotator(tiny_adata, tiny_model, labels_key="label", method="lora", **chosen),
        lambda: cf.tl.fit_perturbation(tiny_adata, tiny_model, condition_key="label", **chosen),
        lambda: cf.load_model("mini", **chosen),
    ):
        with pytest.raises(MissingPackageError, match=r"MindSpore.*cellfm\[mindspore\]") as missing:
            learn()
        assert isinstance(missing.value, ImportError)
    assert repr(tiny_adata) == before
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_work")
def test_an_engine_that_does_not_exist_is_refused(tmp_path: Path, tiny_model: CellFM, corpus: Path, cells):
    for learn in (
        lambda: pretrain(corpus, CONFIG, out=tmp_path / "run", backend="torch"),
        lambda: finetune(tiny_model, cells, backend="torch"),
    ):
        with pytest.raises(InputError, match="backend must be one of 'auto', 'jax', 'mindspore', not 'torch'"):
            learn()
    assert not (tmp_path / "run").exists()


def test_what_mindspore_cannot_do_is_refused(tmp_path: Path, tiny_model: CellFM, corpus: Path, cells):
    pytest.importorskip("mindspore")
    config = {"model": CONFIG["model"], "train": CONFIG["train"] | {"precision": "bfloat16"}}
    message = "does not multiply in bfloat16 on CPUs: use .*float32.*, or backend='jax'"
    with pytest.raises(InputError, match=message):
        pretrain(corpus, config, out=tmp_path / "run", backend="mindspore")
    with pytest.raises(InputError, match=message):
        finetune(tiny_model, cells, config=TrainConfig(**config["train"]), backend="mindspore")
    with pytest.raises(InputError, match="precision='bfloat16'"):
        cf.load_model("mini", backend="mindspore", precision="bfloat16")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_work")
def test_processes_of_msrun_do_not_compute_in_jax(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: Path, capsys: pytest.CaptureFixture
):
    command = ["pretrain", str(corpus), "-o", str(tmp_path / "run"), "--preset", "mini", "--backend", "jax"]
    for option in (["--workers", "2"], ["--node", "0"]):
        assert main([*command, *option]) == 2
        assert "start processes of MindSpore (msrun)" in capsys.readouterr().err
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    with pytest.raises(InputError, match="do not pass backend='jax'"):
        pretrain(corpus, CONFIG, out=tmp_path / "run", backend="jax")
    assert not (tmp_path / "run").exists()


def test_mindspore_says_that_it_recomputes_nothing(caplog: pytest.LogCaptureFixture):
    pytest.importorskip("mindspore")
    start_engine("mindspore").check_training(TrainConfig(recompute=True))
    assert "recompute = true has no effect in MindSpore" in caplog.text
