"""What `cf.train.plan` foresees, against training steps on this machine: operations by time, activations by memory.

python -m benchmarks.plan

Operations: the time of a step at two sizes, taking turns, over the operations foreseen, must give the same rate.
Memory: the growth of peak memory with the number of chunks, each in a process of its own, over the growth foreseen.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.record import record
from cellfm.cells.chunk import CHUNK
from cellfm.config import ModelConfig, TrainConfig
from cellfm.train._plan import CPU_ACTIVATIONS, cpu_tflops, memory_by_term, plan

SIZES = {
    "small": {"n_layers": 2, "d_model": 256, "n_heads": 8},
    "large": {"n_layers": 4, "d_model": 512, "n_heads": 16},
}
N_GENES = 1000
N_CHUNKS = 96
GROWTH = (64, 256)  # chunks between which memory is compared
REPEATS = 5


def training_step(fields: dict[str, int], n_chunks: int) -> Callable[[], object]:
    """A step on `n_chunks` full chunks, four a cell, compiled."""
    from cellfm.engines import Objective, start_engine
    from cellfm.nn.objectives import pretraining
    from cellfm.nn.parameters import initial_weights
    from cellfm.nn.weights import nest

    model, config = ModelConfig(n_genes=N_GENES, d_value=64, **fields), TrainConfig(n_chunks=n_chunks, dropout=0.1)
    weights, objective = initial_weights(model, 0), Objective(pretraining(model, config), 2 * model.n_layers)
    step = start_engine("jax").trainer(objective, weights, list(weights), config, nest)
    generator = np.random.default_rng(0)
    shape = (n_chunks, CHUNK)
    ids = generator.integers(1, N_GENES, shape).astype(np.int32)
    ids[::4, 0] = 0  # CLS
    ones = np.ones(shape, np.float32)
    chunk_cell = (np.arange(n_chunks) // 4).astype(np.int32)
    cls_row = np.zeros(n_chunks, np.int32)
    cls_row[: n_chunks // 4] = np.arange(0, n_chunks * CHUNK, 4 * CHUNK)
    none = np.full(n_chunks, -1, np.int32)
    values = generator.random(shape).astype(np.float32)
    rest = (chunk_cell, cls_row, ones * 0.2, none, none, np.float32(1 / ids.size), np.float32(1))
    micro = (ids, values, ones, ones, *rest)
    step([micro], 0)
    return lambda: step([micro], 1)


def rates() -> dict[str, float]:
    """TFLOP/s of each size: operations foreseen over the median time, the sizes taking turns."""
    steps = {name: training_step(fields, N_CHUNKS) for name, fields in SIZES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in SIZES}
    for _ in range(REPEATS):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    found = {}
    for name, fields in SIZES.items():
        config = {"model": fields | {"n_genes": N_GENES, "d_value": 64}, "train": {"n_chunks": N_CHUNKS}}
        a_cell = plan(config, device=1.0, genes_per_cell=4 * CHUNK - 1).flops_training  # fills four chunks
        found[name] = a_cell * N_CHUNKS / 4 / np.median(seconds[name]) / 1e12
    return found


def peak_bytes(n_chunks: int) -> float:
    """Peak memory of a process that does a few steps of the small size."""
    command = [sys.executable, "-m", "benchmarks.plan", str(n_chunks)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def one_process(n_chunks: int) -> None:
    step = training_step(SIZES["small"], n_chunks)
    for _ in range(2):
        step()
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024)  # of this program alone


def main() -> None:
    if len(sys.argv) > 1:
        one_process(int(sys.argv[1]))
        return
    found, peak = rates(), cpu_tflops()
    print(", ".join(f"{name}: {rate * 1e3:.0f} GFLOP/s ({rate / peak:.0%} of NumPy)" for name, rate in found.items()))
    print(f"large over small: {found['large'] / found['small']:.2f}")
    model = ModelConfig(n_genes=N_GENES, d_value=64, **SIZES["small"])
    foreseen = [
        memory_by_term(model, TrainConfig(n_chunks=n), activations=CPU_ACTIVATIONS)["activations"] for n in GROWTH
    ]
    measured = [peak_bytes(n) for n in GROWTH]
    grown = [(last - first) / 1e9 for first, last in (foreseen, measured)]
    record(
        "plan", gflops={name: 1e3 * rate for name, rate in found.items()}, foreseen_gb=grown[0], measured_gb=grown[1]
    )
    print(f"{GROWTH[0]} to {GROWTH[1]} chunks: {grown[0]:.2f} GB foreseen, {grown[1]:.2f} GB measured")


if __name__ == "__main__":
    main()
