"""Two processes are one: the same weights and losses, one writer, one end; real processes, started by msrun."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_runs import AS_TOML, CONFIG, require_same, rows, small_cells

from cellfm.cells.write import write_cells
from cellfm.model import CellFM
from cellfm.train import pretrain, write_shards
from cellfm.train._launch import Job

pytest.importorskip("mindspore")

# What each process does; it ends with the job, so that nothing is started twice.
WORKER = """
import json, sys
from pathlib import Path
import numpy as np
from cellfm.errors import InputError
from cellfm.train import pretrain
from cellfm.engines import start_engine
from cellfm.train._processes import wait_for_all

folder, config = Path(sys.argv[1]), json.loads(sys.argv[2])
engine = start_engine()
rank, size = engine.join_processes()
said = {"size": size, "total": engine.total(np.array([rank + 1, 0.5])).tolist()}
for name, sharded in (("plain", False), ("sharded", True)):
    fields = {"model": config["model"], "train": config["train"] | {"shard_optimizer": sharded}}
    model = pretrain(folder / "corpus", fields, out=folder / name)
    np.savez(folder / f"{name}_{rank}.npz", **model.weights)
try:
    pretrain(folder / ("corpus", "other")[rank], config, out=folder / "mixed")
except InputError as error:
    said["mixed"] = str(error)
try:
    config["train"]["learning_rate"] *= 1 + rank
    pretrain(folder / "corpus", config, out=folder / "mixed")
except InputError as error:
    said["config"] = str(error)
(folder / f"said_{rank}.json").write_text(json.dumps(said))
wait_for_all(engine)
"""


@pytest.fixture(scope="module")
def corpora(tmp_path_factory, tiny_model: CellFM) -> Path:
    """A folder with two corpora that differ in their last cell."""
    folder = tmp_path_factory.mktemp("distributed")
    tiny_model.save(folder / "vocabulary")
    for name in ("corpus", "other"):
        cells = small_cells(tiny_model.vocab)
        cells.X[-1, 0] += name == "other"
        write_cells(cells, folder / f"{name}.h5ad")
        write_shards([folder / f"{name}.h5ad"], folder / name, model=folder / "vocabulary", validation_fraction=0.2)
    return folder


@pytest.fixture(scope="module")
def job(corpora: Path) -> Path:
    """The folder after two processes have done what `WORKER` says."""
    script = corpora / "worker.py"
    script.write_text(WORKER)
    command = Job.local(2).command(corpora / "logs", [])
    command = [*command[: command.index("-m", 3) - 1], str(script), str(corpora), json.dumps(CONFIG)]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    ran = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, cwd=corpora)
    logs = "".join(log.read_text() for log in (corpora / "logs").glob("worker_*.log"))
    assert ran.returncode == 0, logs
    return corpora


@pytest.fixture(scope="module")
def alone(corpora: Path) -> CellFM:
    return pretrain(corpora / "corpus", CONFIG, out=corpora / "alone", backend="mindspore")


@pytest.mark.parametrize("name", ["plain", "sharded"])
def test_two_processes_train_as_one(job: Path, alone: CellFM, name: str):
    require_same(job / name, job / "alone")
    for rank in range(2):
        with np.load(job / f"{name}_{rank}.npz") as weights:
            assert set(weights) == set(alone.weights)
            for parameter, expected in alone.weights.items():
                np.testing.assert_allclose(weights[parameter], expected, atol=1e-5, rtol=0, err_msg=parameter)
    start = CellFM(alone.config, alone.vocab, random_state=0).weights
    assert max(np.abs(alone.weights[parameter] - start[parameter]).max() for parameter in start) > 1e-2


@pytest.mark.parametrize("name", ["plain", "sharded"])
def test_both_have_the_same_weights(job: Path, name: str):
    with np.load(job / f"{name}_0.npz") as first, np.load(job / f"{name}_1.npz") as second:
        for parameter in first:
            np.testing.assert_array_equal(first[parameter], second[parameter])


def test_both_know_when_they_do_not_see_the_same(job: Path):
    for rank in range(2):
        said = json.loads((job / f"said_{rank}.json").read_text())
        assert said["total"] == [3.0, 1.0]
        assert said["mixed"].startswith("The processes do not see the same corpus: process 1 of 2 differs from process")
        assert said["config"].startswith("The processes do not see the same configuration: process 1 of 2")
    assert not (job / "mixed").exists()


def test_each_tensor_has_one_owner_and_owners_as_much():
    from cellfm.engines.mindspore.training import owners

    sizes = [100, 40, 40, 10, 10, 1, 1, 1]
    chosen = owners(sizes, 3)
    load = [sum(size for size, owner in zip(sizes, chosen, strict=True) if owner == process) for process in range(3)]
    assert sum(load) == sum(sizes)
    assert max(load) == 100
    assert owners(sizes, 1) == [0] * 8


@pytest.mark.slow
def test_a_death_ends_the_job_and_a_stop_is_orderly_and_both_are_resumed(corpora: Path, tmp_path: Path):
    (tmp_path / "long.toml").write_text(AS_TOML)
    run = tmp_path / "run"

    def start(steps: int) -> subprocess.Popen:
        command = ("pretrain", corpora / "corpus", "-o", run, "--config", "long.toml", "--workers", 2)
        arguments = [*map(str, command), "--set", f"train.steps={steps}", "--set", "train.schedule=constant"]
        return subprocess.Popen(
            [sys.executable, "-m", "cellfm", *arguments], stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )

    def wait_for_step(step: int) -> None:
        limit = time.monotonic() + 300
        while not (run / "log.csv").exists() or len(rows(run)) < step:
            assert time.monotonic() < limit
            time.sleep(0.1)

    job = start(100_000)
    wait_for_step(5)
    log = run / "worker_logs" / "worker_1.log"
    os.kill(int(log.read_text().split()[1]), signal.SIGKILL)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 1
    assert f"Process 1 ended: killed by SIGKILL, perhaps for want of memory (see {log})." in said
    assert "Traceback" not in said
    last = max(int(folder.name[5:]) for folder in (run / "checkpoints").iterdir())
    assert f"The same command continues from step {last:,}." in said

    job = start(100_000)
    wait_for_step(last + 5)
    job.send_signal(signal.SIGTERM)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 143
    assert "Traceback" not in said
    steps = [int(row["step"]) for row in rows(run)]
    assert steps == list(range(1, steps[-1] + 1))
    assert f"stopped at step {steps[-1]:,} of 100,000" in said
    assert (run / "checkpoints" / f"step-{steps[-1]:09d}").is_dir()
