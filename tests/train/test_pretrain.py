"""A run makes a model; killed at any step it goes on as if nothing had happened; what cannot be trained is refused."""

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from safetensors.numpy import load_file

import cellfm as cf
from cellfm.cells.tokenize import tokenize
from cellfm.config import ModelConfig
from cellfm.corpus._corpus import Corpus
from cellfm.errors import InputError, MissingKeyError
from cellfm.genes.vocabulary import Vocabulary
from cellfm.model import CellFM
from cellfm.train import pretrain, write_shards

MODEL = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_value": 8, "max_genes": 60}
TRAIN = {
    "steps": 8,
    "batch_size": 4,
    "n_chunks": 8,
    "train_genes": 60,
    "dropout": 0.3,
    "learning_rate": 5e-3,
    "log_every": 1,
    "validate_every": 4,
    "checkpoint_every": 3,
}


def config_of(model=None, **train) -> dict:
    return {"model": MODEL | (model or {}), "train": TRAIN | train}


@pytest.fixture(scope="module", autouse=True)
def quiet():
    before, cf.settings.verbosity = cf.settings.verbosity, "error"
    yield
    cf.settings.verbosity = before


@pytest.fixture(scope="module")
def corpora(tmp_path_factory, tiny_vocab) -> tuple[Corpus, Corpus]:
    generator = np.random.default_rng(0)
    kind = np.arange(80) % 2
    mean = generator.gamma(1.0, 2.0, (2, 300))[kind]
    obs = pd.DataFrame({"cell_type": np.array(["A", "B"])[kind]}, index=[f"cell{i}" for i in range(80)])
    counts = generator.poisson(mean).astype(np.float32)
    cells = AnnData(counts, obs=obs, var=pd.DataFrame(index=list(tiny_vocab.symbols)))
    out = tmp_path_factory.mktemp("data")
    options = {"model": tiny_vocab, "min_genes": 1}
    return tuple(
        write_shards(cells, out / f"{held_out}", validation_fraction=held_out, **options) for held_out in (0.2, 0)
    )


@pytest.fixture(scope="module")
def corpus(corpora) -> Corpus:
    return corpora[0]


@pytest.fixture(scope="module")
def corpus_without_validation(corpora) -> Corpus:
    return corpora[1]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "cells_per_second"} for row in csv.DictReader(file)]


def tokens_of(corpus: Corpus):
    return tokenize(corpus.counts(np.arange(10)), np.arange(1, 301, dtype=np.int32), max_genes=300)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus) -> tuple[Path, CellFM]:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return folder, pretrain(corpus, config_of(), out=folder)


def test_the_folder_of_a_run_is_a_model(finished, corpus):
    folder, model = finished
    loaded = cf.load_model(folder)
    assert loaded.name == model.name == "tiny"
    assert loaded.config == model.config
    np.testing.assert_array_equal(loaded.encode(tokens_of(corpus)).cell, model.encode(tokens_of(corpus)).cell)
    assert {path.name for path in folder.iterdir()} >= {"run.json", "log.csv", "checkpoints", "model"}


def test_the_loss_falls_and_is_logged(finished):
    found = rows(finished[0])
    assert [int(row["step"]) for row in found] == list(range(1, 9))
    loss = [float(row["loss"]) for row in found]
    assert np.mean(loss[-3:]) < np.mean(loss[:3])
    for row in found:
        assert float(row["loss"]) == pytest.approx(float(row["gene"]) + float(row["cell"]), rel=1e-5)
    validated = [float(row["validation_loss"]) for row in found if row["validation_loss"]]
    assert len(validated) == 2
    assert validated[1] < validated[0]


@pytest.fixture(scope="module")
def ablations() -> list[list[float]]:
    """Losses of the ablations trained so far."""
    return []


KILLED = """
import os, signal, sys
import cellfm as cf
from cellfm.train import _feed, _run, pretrain
cf.settings.verbosity = "error"
config, shards, out, where = eval(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if where == "step":
    batch = _feed.Feed.batch
    _feed.Feed.batch = lambda feed, step: die() if step == 7 else batch(feed, step)
if where == "save":
    save_file = _run.save_file
    def half(tensors, path):
        save_file(tensors, path)
        if "000006" in str(path):
            path.write_bytes(path.read_bytes()[:100])
            die()
    _run.save_file = half
pretrain(shards, config, out=out)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill -9")
def test_killed_and_run_again_is_uninterrupted(tmp_path, finished, corpus):
    out = tmp_path / "tiny"
    for where in ("save", "step"):  # while it saves step 6; then, continuing from step 3, in step 8
        command = [sys.executable, "-c", KILLED, repr(config_of()), str(corpus.path), str(out), where]
        killed = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
        last, n_lines = {"save": (3, 6), "step": (6, 7)}[where]
        assert max(path.name for path in (out / "checkpoints").glob("step-*")) == f"step-{last:09d}"
        assert len(rows(out)) == n_lines, "lines of steps that are lost with their weights"

    model = pretrain(corpus.path, config_of(), out=out)
    assert rows(out) == rows(finished[0])
    for name, array in finished[1].weights.items():
        np.testing.assert_array_equal(model.weights[name], array, err_msg=name)
    assert not list((out / "checkpoints").glob(".*")), "what the killed process left is gone"


def test_a_finished_run_is_read_and_not_trained_again(finished, corpus):
    folder, model = finished
    before = rows(folder)
    again = pretrain(corpus, config_of(), out=folder)
    assert rows(folder) == before
    for name, array in model.weights.items():
        np.testing.assert_array_equal(again.weights[name], array, err_msg=name)


def test_another_configuration_in_the_same_folder_is_refused(finished, corpus):
    with pytest.raises(
        InputError, match=r"another configuration; different: train\.learning_rate \(0\.005, now 0\.1\)"
    ):
        pretrain(corpus, config_of(learning_rate=0.1), out=finished[0])
    with pytest.raises(InputError, match=r"different: model\.d_model \(16, now 32\)"):
        pretrain(corpus, config_of({"d_model": 32}), out=finished[0])


@pytest.mark.parametrize(
    "model", [{}, {"feed_forward": "ffn"}, {"norm": "prenorm"}, {"retention": "decay"}, {"depth_tokens": True}], ids=str
)
def test_ablations_train(tmp_path, corpus_without_validation, model, ablations):
    pretrain(corpus_without_validation, config_of(model, steps=3), out=tmp_path)
    loss = [float(row["loss"]) for row in rows(tmp_path)]
    assert np.isfinite(loss).all()
    assert loss[-1] < loss[0]
    assert not [found for found in ablations if found == loss], "the option changes something"
    ablations.append(loss)


def test_every_option_of_the_objective_trains(tmp_path, corpus_without_validation):
    options = {
        "contrast_weight": 1.0,
        "type_weight": 1.0,
        "zero_fraction": 0.2,
        "thin_probability": 0.5,
        "panel_probability": 0.5,
        "batch_by": "source",
        "optimizer": "adamw",
        "clip": "global",
    }
    model = pretrain(corpus_without_validation, config_of(steps=2, **options), out=tmp_path)
    assert model.config.zero_modelling
    for row in rows(tmp_path):
        terms = [float(row[name]) for name in ("gene", "cell", "contrast", "type")]
        assert min(terms) > 0
        assert float(row["loss"]) == pytest.approx(sum(terms), rel=1e-5)


def test_training_goes_on_from_a_model(tmp_path, corpus_without_validation, finished):
    model = finished[1]
    trained = pretrain(corpus_without_validation, config_of(steps=1, learning_rate=1e-9), out=tmp_path, start=model)
    for name, array in model.weights.items():
        np.testing.assert_allclose(trained.weights[name], array, atol=1e-6, err_msg=name)


def test_frozen_weights_stay_and_have_no_moments(tmp_path, corpus_without_validation, finished):
    frozen = {"gene_rate": 0.0, "other_rate": 0.0, "learning_rate": 1e-2}
    model = pretrain(corpus_without_validation, config_of({}, **frozen), out=tmp_path / "run", start=finished[1])
    changed = {name for name, array in model.weights.items() if (array != finished[1].weights[name]).any()}
    assert changed == {name for name in model.weights if "decoder" in name}
    state = load_file(next((tmp_path / "run" / "checkpoints").glob("*/*.safetensors")))
    assert {name.partition(".")[2] for name in state if name.startswith("moment1.")} == changed


def test_a_model_of_another_vocabulary_is_refused(tmp_path, corpus):
    vocab = Vocabulary(pd.DataFrame({"symbol": [f"OTHER{i}" for i in range(300)]}))
    other = CellFM(ModelConfig(n_genes=300, **MODEL), vocab)
    with pytest.raises(InputError, match="another vocabulary"):
        pretrain(corpus, config_of(), out=tmp_path / "run", start=other)
    assert not (tmp_path / "run").exists()


def test_another_shape_than_that_of_the_model_is_refused(tmp_path, corpus, finished):
    with pytest.raises(InputError, match="The model to start from has d_model = 16, and the configuration asks for 32"):
        pretrain(corpus, config_of({"d_model": 32}), out=tmp_path / "run", start=finished[1])


def test_zero_modelling_needs_a_model_that_can(tmp_path, corpus, finished):
    for options in (
        {"config": config_of({"zero_modelling": False}, zero_fraction=0.5)},
        {"config": config_of(zero_fraction=0.5), "start": finished[1]},
    ):
        with pytest.raises(InputError, match="zero_fraction above 0 needs"):
            pretrain(corpus, out=tmp_path / "run", **options)


@pytest.mark.parametrize(
    ("train", "column"), [({"batch_by": "tissue"}, "tissue"), ({"type_weight": 1.0, "type_column": "label"}, "label")]
)
def test_missing_column_is_named(tmp_path, corpus, train, column):
    with pytest.raises(MissingKeyError, match=f"no column '{column}'; available: .*cell_type.*source"):
        pretrain(corpus, config_of(**train), out=tmp_path / "run")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"train": {"step": 3}}, "Did you mean 'steps'"),
        ({"model": {"n_genes": 12}}, "n_genes is 12, but the corpus has 300 genes; leave it out"),
        ({"model": {"d_modle": 12}}, "Did you mean 'd_model'"),
        (config_of(n_chunks=0), "n_chunks must be"),
    ],
)
def test_wrong_configuration_is_refused_before_anything_is_written(tmp_path, corpus, config, message):
    with pytest.raises(InputError, match=message):
        pretrain(corpus, config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_refused(tmp_path, corpus):
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(InputError, match=f"{re.escape(str(tmp_path))} contains something other than a training run"):
        pretrain(corpus, config_of(), out=tmp_path)


def test_no_shards_are_said(tmp_path):
    with pytest.raises(InputError, match=re.escape(os.fspath(tmp_path))):
        pretrain(tmp_path, config_of(), out=tmp_path / "run")


@pytest.mark.slow
def test_tiny_data_overfits(tmp_path, tiny_vocab):
    """Two cells whose hidden values only the other genes of the cell tell."""
    counts = np.random.default_rng(0).poisson(np.random.default_rng(1).gamma(1.0, 3.0, (2, 20))).astype(np.float32)
    cells = AnnData(
        counts, obs=pd.DataFrame(index=["one", "other"]), var=pd.DataFrame(index=list(tiny_vocab.symbols[:20]))
    )
    shards = write_shards(cells, tmp_path / "shards", model=tiny_vocab, min_genes=1, validation_fraction=0)
    # With norms before each block this takes far fewer steps than with those after it of the published network.
    model = {"n_layers": 1, "d_model": 32, "d_value": 16, "norm": "prenorm"}
    train = {
        "steps": 500,
        "batch_size": 2,
        "n_chunks": 2,
        "learning_rate": 2e-2,
        "warmup_steps": 10,
        "final_rate": 0.01,
    }
    pretrain(shards, config_of(model, **train, validate_every=500, checkpoint_every=500), out=tmp_path / "run")
    last = pd.read_csv(tmp_path / "run" / "log.csv").tail(20)
    values = tokenize(shards.counts(np.arange(2)), np.arange(1, 301, dtype=np.int32), max_genes=300).values
    assert last["gene"].mean() < 0.02 * values.var()
    assert last["cell"].mean() < 0.02 * values.var()
