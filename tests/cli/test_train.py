"""`cellfm pretrain` and `cellfm plan`: one clear line for what is wrong, the exit codes, and the call of msrun."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from cellfm.cells.write import write_cells
from cellfm.cli import _main as cli
from cellfm.config import ClusterConfig
from cellfm.errors import InputError
from cellfm.model import CellFM, load_model
from cellfm.train import write_shards
from cellfm.train._launch import Job, free_port, launch
from cellfm.train._workers import Workers

pytestmark = [pytest.mark.usefixtures("own_logger"), pytest.mark.mindspore]

CONFIG = """
[model]
n_layers = 2
d_model = 16
n_heads = 2
d_value = 8
[train]
steps = 3
batch_size = 6
n_chunks = 24
train_genes = 120
schedule = "constant"
log_every = 1
checkpoint_every = 2
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, tiny_model: CellFM) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    tiny_model.save(folder / "model")
    counts = np.random.default_rng(0).poisson(3.0, (30, 300)).astype(np.float32)
    cells = AnnData(counts)
    cells.var_names = tiny_model.vocab.symbols
    write_cells(cells, folder / "cells.h5ad")
    write_shards([folder / "cells.h5ad"], folder / "corpus", model=folder / "model", validation_fraction=0.2)
    return folder / "corpus"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "small.toml").write_text(CONFIG)
    return tmp_path / "small.toml"


def run(*args: object) -> int:
    return cli.main([str(arg) for arg in args])


def steps(folder: Path) -> list[int]:
    if not (folder / "log.csv").exists():
        return []
    with (folder / "log.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_a_run_ends_with_0_and_a_model(corpus: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert run("pretrain", corpus, "-o", tmp_path / "run", "--config", config, "--set", "train.steps=2") == 0
    assert steps(tmp_path / "run") == [1, 2]
    saved = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (saved["train"]["steps"], saved["train"]["batch_size"], saved["model"]["d_model"]) == (2, 6, 16)
    model = load_model(tmp_path / "run")
    assert model.config.d_model == 16
    capsys.readouterr()
    assert run("info", tmp_path / "run") == 0
    told = capsys.readouterr().out
    assert "training run, finished; last checkpoint: step 2" in told
    of_run = [
        "width 16",
        model.vocab.hash,
        "steps: 2, 6 cells each",
        "learning_rate",
        "trained on: ",
        "log: step 2, epoch",
    ]
    for words in (*of_run, f"written by: cellfm {version('cellfm')}"):
        assert words in told
    again = ("pretrain", corpus, "-o", tmp_path / "more", "--config", config, "--start", tmp_path / "run")
    assert run(*again, "--set", "train.steps=1", "--set", "train.learning_rate=1e-30", "--set", "train.dropout=0") == 0
    for name, values in load_model(tmp_path / "more").weights.items():
        np.testing.assert_allclose(values, model.weights[name], atol=1e-6, err_msg=name)


# While it computes, MindSpore makes SIGTERM of Ctrl-C.
@pytest.mark.parametrize(("number", "codes"), [(signal.SIGINT, (130, 143)), (signal.SIGTERM, (143,))])
def test_a_stop_writes_a_checkpoint_and_tells_how_to_go_on(
    corpus: Path, config: Path, tmp_path: Path, number: int, codes: tuple[int, ...]
):
    command = ["pretrain", corpus, "-o", tmp_path / "run", "--config", config, "--set", "train.steps=100000"]
    job = subprocess.Popen(
        [sys.executable, "-m", "cellfm", *map(str, command)], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    limit = time.monotonic() + 300
    while len(steps(tmp_path / "run")) < 3:
        assert time.monotonic() < limit
        assert job.poll() is None, job.stderr.read()
        time.sleep(0.05)
    job.send_signal(number)
    _, said = job.communicate(timeout=60)
    assert job.returncode in codes
    last = steps(tmp_path / "run")[-1]
    assert f"cellfm: stopped at step {last:,} of 100,000; run the same command again to continue" in said
    assert "Traceback" not in said
    assert (tmp_path / "run" / "checkpoints" / f"step-{last:09d}").is_dir()
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[trian]\nsteps = 3\n", "unknown entry 'trian'. Did you mean 'train'?"),
        ("steps = 3\n", "unknown entry 'steps'. It belongs to [train]."),
        ("[train]\nlearning_rat = 1e-3\n", "TrainConfig has no field 'learning_rat'. Did you mean 'learning_rate'?"),
        ("[model]\nn_layer = 3\n", "ModelConfig has no field 'n_layer'. Did you mean 'n_layers'?"),
        ("[cluster]\nnode = []\n", "ClusterConfig has no field 'node'. Did you mean 'nodes'?"),
        ('[train]\nsteps = "many"\n', "TrainConfig: steps must be a whole number above 0, not 'many'"),
        ("[train]\nsteps = 2.5\n", "steps must be a whole number above 0, not 2.5"),
        ("[model]\nn_heads = 5\n", "n_heads must be a divisor of d_model = 128, not 5"),
        ('[cluster]\nnodes = "one"\n', "nodes must be a list of host names or addresses, not 'one'"),
        ('[cluster]\nnodes = ["a", "a"]\n', "nodes must be a list that names each machine once"),
        ('[cluster]\nnodes = ["a"]\nport = 70000\n', "port must be a whole number from 1 to 65535, not 70000"),
        ("train = 3\n", "train must be a table, [train], not 3"),
        ('preset = "8M"\n', "No preset '8M'; available: mini, 80M, 800M"),
        ("preset = [", "is not valid TOML"),
        ("[train]\nsteps: 3\n", "is not valid TOML"),
    ],
)
@pytest.mark.parametrize("workers", [[], ["--workers", 2]], ids=["one", "two"])
def test_a_wrong_configuration_is_told_in_one_line(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture, text: str, said: str, workers: list
):
    (tmp_path / "wrong.toml").write_text(text)
    assert run("pretrain", corpus, "-o", tmp_path / "run", "--config", tmp_path / "wrong.toml", *workers) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("cellfm: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--set", "train.step=3"], "Did you mean 'steps'?"),
        (["--set", "steps=3"], "expected TABLE.FIELD=VALUE"),
        (["--set", "train.steps"], "expected TABLE.FIELD=VALUE"),
        (["--set", "train.steps=few"], "steps must be a whole number above 0, not 'few'"),
        (["--config", "none.toml"], "No configuration 'none.toml'"),
        (["--workers", "0"], "--workers must be 1 or more, not 0"),
        (["--node", "0"], "--node needs the table [cluster]"),
        (["--start", "nowhere"], "nowhere"),
    ],
)
def test_wrong_options_are_told_in_one_line(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture, args: list[str], said: str
):
    assert run("pretrain", corpus, "-o", tmp_path / "run", *args) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_no_corpus_is_told(tmp_path: Path, capsys: pytest.CaptureFixture):
    for workers in ([], ["--workers", 2]):
        assert run("pretrain", tmp_path / "none", "-o", tmp_path / "run", *workers) == 2
        assert str(tmp_path / "none") in capsys.readouterr().err


def test_a_folder_with_something_else_is_left_alone(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    for workers in ([], ["--workers", 2]):
        assert run("pretrain", corpus, "-o", tmp_path / "run", *workers) == 2
        assert "contains something other than a training run" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_a_port_in_use_is_told_before_anything_starts(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert run("pretrain", corpus, "-o", tmp_path / "run", "--workers", 2, "--port", port) == 2
    assert f"Port {port} cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_msrun_is_called_for_one_machine_or_for_one_of_several(tmp_path: Path):
    local = Job.local(2, 8200).command(tmp_path, ["pretrain", "corpus"])
    assert local[:3] == [sys.executable, "-m", "mindspore.parallel.cluster.run"]
    assert {"--worker_num=2", "--local_worker_num=2", "--master_port=8200", "--master_addr=127.0.0.1"} <= set(local)
    assert not [part for part in local if part.startswith("--node_rank")]
    assert local[-4:] == ["-m", "cellfm", "pretrain", "corpus"]
    cluster = ClusterConfig(nodes=["a", "b", "c", "d"], workers_per_node=8, port=9000)
    third = Job.of_node(cluster, 2)
    said = set(third.command(tmp_path, []))
    assert {"--worker_num=32", "--local_worker_num=8", "--node_rank=2", "--master_addr=a", "--master_port=9000"} <= said
    assert [log.name for log in third.logs(tmp_path)] == [f"worker_{i}.log" for i in range(16, 24)]
    with pytest.raises(InputError, match="--node 4: .* nodes 0 to 3"):
        Job.of_node(cluster, 4)


@pytest.mark.parametrize(
    ("log", "code", "reason"),
    [
        ("cellfm: The corpus is damaged.\n", 2, "The corpus is damaged"),
        ("Traceback (most recent call last):\n  File x\nRuntimeError: no disk\n", 1, "RuntimeError: no disk"),
        ("training", -signal.SIGKILL, "killed by SIGKILL, perhaps for want of memory"),
        ("training", -signal.SIGSEGV, "killed by SIGSEGV"),
        ("training", 3, "exit code 3"),
    ],
)
def test_why_a_process_died(tmp_path: Path, log: str, code: int, reason: str):
    logs = [tmp_path / "worker_0.log", tmp_path / "worker_1.log"]
    logs[0].write_text("process 100\n")
    logs[1].write_text(f"process 101\n{log}")
    said = tmp_path / "msrun_0.log"
    said.write_text(f"[ERROR] ME Worker process 101 exit with exception. Error code: {code}.\n")
    assert Workers(None, said, logs).why() == f"Process 1 ended: {reason} (see {logs[1]})."


def test_a_launcher_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Job, "command", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(InputError, match="could not be started") as told:
        launch(Job.local(2, free_port()), [], tmp_path / "run", steps=3)
    assert told.value.exit_code == 1
    assert os.listdir(tmp_path / "run") == ["worker_logs"]


def test_a_plan_is_printed(capsys: pytest.CaptureFixture):
    assert run("plan", "--preset", "800M", "--devices", 32, "--cells", "102e6") == 0
    said = capsys.readouterr().out
    assert "797,391,105" in said
    assert "on 32 x Ascend 910" in said
    assert "one epoch: 796,875 steps" in said
    assert run("plan", "--set", "train.steps=7", "--device", 100, "--memory", "0.01") == 0
    told = capsys.readouterr()
    assert "all 7 steps" in told.out
    assert "Too little memory" in told.err
    assert run("plan", "--device", "toaster") == 2
    assert "No device 'toaster'" in capsys.readouterr().err
