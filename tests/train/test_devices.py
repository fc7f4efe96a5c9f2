"""Several devices, and several processes of JAX, are one: the same weights, losses, files and end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from small_runs import AS_TOML, CONFIG, require_same, rows, small_cells

from cellfm.engines.jax import devices
from cellfm.errors import InputError
from cellfm.model import CellFM
from cellfm.train import pretrain, write_shards
from cellfm.train._launch import free_port

DEEP = {"n_layers": 5}  # scanned over
VARIANTS = {
    "plain": ({}, {}),
    "optimizer": ({}, {"shard_optimizer": True}),
    "weights": ({}, {"shard_weights": True}),
    "deep": (DEEP, {"shard_weights": True, "steps": 2}),
    "recomputed": (DEEP, {"shard_weights": True, "steps": 2, "recompute": True}),
    "few": ({}, {"batch_size": 3, "steps": 2}),
}
# Four devices in one process; with three cells one of them has nothing to do.
FOUR = """
import json, sys
import jax
from pathlib import Path
from cellfm.engines.jax import JaxEngine, training
from cellfm.train import pretrain

assert len(jax.devices()) == 4
made = []

class Trainer(training.JaxTrainer):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        made.append(self)

JaxEngine.trainer = Trainer
folder, variants, share = Path(sys.argv[1]), json.loads(sys.argv[2]), {}
for name, config in variants.items():
    pretrain(folder / "corpus", config, out=folder / "four" / name, backend="jax")
    for what, tree in (("weights", made[-1]._trained), ("moments", made[-1]._moments)):
        arrays = jax.tree.leaves(tree)
        for device in jax.devices():
            held = sum(s.data.nbytes for a in arrays for s in a.addressable_shards if s.device == device)
            share.setdefault(name, {}).setdefault(what, []).append(held / sum(a.nbytes for a in arrays))
print(json.dumps(share))
"""


def variant(name: str) -> dict[str, dict]:
    model, train = VARIANTS[name]
    return {"model": CONFIG["model"] | model, "train": CONFIG["train"] | train}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: CellFM) -> Path:
    """A corpus and its configuration, and what one device makes of each variant, in ``one``."""
    folder = tmp_path_factory.mktemp("devices")
    cells = small_cells(tiny_model.vocab)
    write_shards(cells, folder / "corpus", model=tiny_model.vocab, validation_fraction=0.2)
    (folder / "config.toml").write_text(AS_TOML)
    for name in ("plain", "few", "deep"):
        pretrain(folder / "corpus", variant(name), out=folder / "one" / name, backend="jax")
    return folder


@pytest.fixture(scope="module")
def four(folder: Path) -> dict[str, dict[str, list[float]]]:
    """All variants by four devices, in ``four``; the share of the bytes that each of the devices held."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    command = [sys.executable, "-c", FOUR, str(folder), json.dumps({name: variant(name) for name in VARIANTS})]
    ran = subprocess.run(command, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, cwd=folder)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", VARIANTS)
def test_four_devices_train_as_one(folder: Path, four: dict, name: str):
    one = {"few": "few", "deep": "deep", "recomputed": "deep"}.get(name, "plain")
    require_same(folder / "four" / name, folder / "one" / one)


def test_what_is_sharded_lies_on_four_devices_in_quarters(four: dict):
    for name, of_what in four.items():
        _, train = VARIANTS[name]
        weights = train.get("shard_weights", False)
        for what, divided in (("weights", weights), ("moments", weights or train.get("shard_optimizer", False))):
            np.testing.assert_allclose(of_what[what], 0.25 if divided else 1.0, atol=0.01 if divided else 0)


def test_a_run_with_sharded_weights_goes_on_with_one_device(folder: Path, four: dict, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(folder / "four" / "weights", run)
    shutil.rmtree(run / "checkpoints" / "step-000000004")
    shutil.rmtree(run / "model")
    pretrain(folder / "corpus", variant("weights"), out=run, backend="jax")
    require_same(run, folder / "one" / "plain")


def environments(launcher: str) -> list[dict[str, str]]:
    """What a launcher sets in each of two processes of this machine."""
    port = free_port()
    return [
        {
            "coordinator": {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(rank),
            },
            "srun": {
                "SLURM_JOB_ID": str(port),  # of which JAX makes a port
                "SLURM_STEP_NODELIST": "localhost",
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_STEP_TASKS_PER_NODE": "2",
                "SLURM_NTASKS": "2",
                "SLURM_PROCID": str(rank),
                "SLURM_LOCALID": str(rank),
            },
            "mpirun": {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "OMPI_COMM_WORLD_SIZE": "2",
                "OMPI_COMM_WORLD_RANK": str(rank),
                "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            },
        }[launcher]
        for rank in range(2)
    ]


def start(folder: Path, run: Path, launcher: str, *settings: str) -> list[subprocess.Popen]:
    command = [sys.executable, "-m", "cellfm", "pretrain", str(folder / "corpus"), "-o", str(run), "--backend", "jax"]
    command += ["--config", str(folder / "config.toml")]
    for setting in settings:
        command += ["--set", setting]
    return [
        subprocess.Popen(command, env=os.environ | own, stderr=subprocess.PIPE, text=True, cwd=folder)
        for own in environments(launcher)
    ]


def ended(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit code and what was said of each."""
    said = [process.communicate(timeout=300)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def test_two_processes_train_as_one_and_are_refused_as_one(folder: Path):
    processes = start(folder, folder / "two", "coordinator")
    for code, said in ended(processes):
        assert code == 0, said[-3000:]
    require_same(folder / "two", folder / "one" / "plain")
    (first, said), (second, other) = ended(start(folder, folder / "two", "coordinator", "train.learning_rate=0.5"))
    assert (first, second) == (2, 2)
    assert "contains a run with another configuration; different: train.learning_rate (0.01, now 0.5)" in said
    assert "Another process cannot start training" in other
    assert "Traceback" not in said + other


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_processes_of_a_launcher_find_each_other(folder: Path, launcher: str):
    for code, said in ended(start(folder, folder / launcher, launcher, "train.shard_weights=true")):
        assert code == 0, said[-3000:]
    require_same(folder / launcher, folder / "one" / "plain")


@pytest.mark.slow
def test_two_processes_stop_in_order_at_the_same_step(folder: Path, tmp_path: Path):
    run = tmp_path / "run"
    processes = start(folder, run, "coordinator", "train.steps=100000")
    limit = time.monotonic() + 300
    while not (run / "checkpoints" / "step-000000004").exists():
        assert time.monotonic() < limit
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    results = ended(processes)
    last = int(rows(run)[-1]["step"])
    assert (run / "checkpoints" / f"step-{last:09d}").is_dir()
    for code, said in results:
        assert code == 143
        assert f"stopped at step {last:,} of 100,000" in said
        assert "Traceback" not in said


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch):
    """What `join_processes` gives to JAX in an environment, and the devices that it makes visible."""

    def join(*, fails: bool = False, **environment: object) -> tuple[tuple, dict]:
        calls, visible = [], {}

        def initialize(*args: object, **options: object) -> None:
            calls.append((args, options))
            if fails:
                raise ValueError("coordinator_address should be defined.")

        with monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(("JAX_", "SLURM_", "OMPI_", "PMI_"))]:
                patch.delenv(name)
            for name, value in environment.items():
                patch.setenv(name, str(value))
            patch.setattr(jax.distributed, "initialize", initialize)
            patch.setattr(jax.config, "update", visible.__setitem__)
            devices.join_processes.__wrapped__()
        return calls[0] if calls else (), visible

    return join


def test_launchers_are_recognised_by_what_they_set(launched):
    assert launched() == ((), {})
    # A batch script, a shell and one process of srun are alone, whatever was allocated.
    assert launched(SLURM_JOB_ID=7, SLURM_NTASKS=8, SLURM_PROCID=0) == ((), {})
    assert launched(SLURM_JOB_ID=7, SLURM_NTASKS=1, SLURM_STEP_NUM_TASKS=1, SLURM_PROCID=0) == ((), {})
    srun = {"SLURM_STEP_NUM_TASKS": 2, "SLURM_PROCID": 1}
    (args, options), _ = launched(**srun, SLURM_STEP_TASKS_PER_NODE="1(x2)")
    assert (args, options) == ((None, 2, 1), {})
    open_mpi = {"OMPI_COMM_WORLD_SIZE": 4, "OMPI_COMM_WORLD_RANK": 3}
    assert launched(**open_mpi, JAX_COORDINATOR_ADDRESS="node1:77")[0] == (("node1:77", 4, 3), {})
    own = {"JAX_COORDINATOR_ADDRESS": "node1:77", "JAX_NUM_PROCESSES": 4, "JAX_PROCESS_ID": 3}
    # Older ones ask srun only for what they are not told.
    options = {"cluster_detection_method": "deactivate"} if jax.__version_info__ >= (0, 6) else {}
    assert launched(**own, **srun)[0] == (("node1:77", 4, 3), options)
    assert launched(PMI_SIZE=2, PMI_RANK=1, JAX_COORDINATOR_ADDRESS="node1:77")[0] == (("node1:77", 2, 1), {})


def test_a_process_that_is_alone_on_its_machine_uses_all_devices_there(launched):
    srun = {"SLURM_STEP_NUM_TASKS": 3, "SLURM_PROCID": 1}
    for where, alone in (("1(x3)", True), ("1,1,1", True), ("2,1", False), ("3", False), ("2(x3),1", False)):
        assert ("jax_cuda_visible_devices" in launched(**srun, SLURM_STEP_TASKS_PER_NODE=where)[1]) == alone


def test_processes_that_cannot_find_each_other_are_told_what_to_set(launched):
    with pytest.raises(InputError, match=r"process 1 of 2 \(PMI_SIZE\).*should be defined.*JAX_COORDINATOR_ADDRESS to"):
        launched(PMI_SIZE=2, PMI_RANK=1, fails=True)
