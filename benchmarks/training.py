"""Cells per second of a training step: JAX, MindSpore, and the loop that one writes first (padded cells, nn.Adam).

    python -m benchmarks.training [--size mini wide]

The padded loop is `padded.py` with loss and gradients compiled. Same weights at the start, same cells, masks and
objective; the ways take turns.
"""

import argparse
import time
from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import nn

from benchmarks.padded import PaddedObjective
from benchmarks.record import record
from benchmarks.synthetic import random_counts, random_model
from cellfm.config import TrainConfig
from cellfm.corpus._cell_table import CellTable
from cellfm.engines import Objective, start_engine
from cellfm.nn.objectives import pretraining
from cellfm.nn.weights import nest
from cellfm.train._feed import Batch, Feed, MicroBatch

SIZES = {  # width, heads, width of the value table, cells of a batch, of a micro-batch of the padded loop, steps
    "mini": (128, 2, 64, 64, 16, 8),
    "wide": (1536, 48, 256, 4, 2, 4),
}
CHUNKS_OF_A_CELL = 19
RATE = 3e-4


def padded_loop(objective: PaddedObjective) -> Callable[[Batch], float]:
    """Loss and gradients compiled as a whole, and ``nn.Adam``."""
    parameters = list(objective.w)
    optimizer = nn.Adam(parameters, RATE, beta2=0.95)
    gradient = ms.value_and_grad(objective, None, ms.ParameterTuple(parameters))

    def forward_and_back(gene_ids, values, visible, mask, target):
        return gradient(gene_ids, values, visible, mask, target)

    step = ms.jit(forward_and_back)

    def update(batch: Batch) -> float:
        computed = [step(*arrays) for arrays in map(without_cls, batch.micro)]
        gradients = zip(*(grads for _, grads in computed), strict=True)
        optimizer(tuple(sum(grads[1:], start=grads[0]) for grads in gradients))
        return float(sum(float(loss) for loss, _ in computed))

    return update


def without_cls(micro: MicroBatch) -> list[ms.Tensor]:
    """What `PaddedObjective` takes, which places CLS itself."""
    arrays = (micro.gene_ids, micro.values, micro.visible, micro.mask, micro.target * micro.inv_targets)
    return [ms.Tensor(np.ascontiguousarray(array[:, 1:])) for array in arrays]


def measure(size: str) -> None:
    """Time the ways in turns and print them."""
    d, n_heads, d_value, batch_size, of_padded, n_steps = SIZES[size]
    model = random_model(d, n_heads, 2, d_value=d_value)
    counts = random_counts(batch_size * (n_steps + 2))
    ids = np.arange(1, counts.shape[1] + 1, dtype=np.int32)
    cells = CellTable.from_counts(counts, ids, model.vocab, np.zeros(counts.shape[0], bool))
    options = {"dropout": 0.0, "clip": "none", "weight_decay": 0.0}
    n_chunks = of_padded * CHUNKS_OF_A_CELL
    config = TrainConfig(learning_rate=RATE, batch_size=batch_size, n_chunks=n_chunks, schedule="constant", **options)
    packed, padded = (Feed(cells, model.config, config) for _ in range(2))
    padded.length = model.config.max_genes + 1  # one chunk a cell: padding to the longest that there may be
    padded.config = TrainConfig.from_dict({**vars(config), "n_chunks": of_padded})

    ways: dict[str, Callable[[int], float]] = {}
    loop = padded_loop(PaddedObjective(model.config, model.weights))
    ways["padded"] = lambda i: loop(padded.batch(i))
    for name in ("mindspore", "jax"):
        objective = Objective(pretraining(model.config, config))
        trainer = start_engine(name).trainer(objective, model.weights, list(model.weights), config, nest)
        ways[name] = lambda i, trainer=trainer: trainer(packed.batch(i).micro, i).loss
    losses: dict[str, list[float]] = {name: [] for name in ways}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(n_steps):
        for name, update in ways.items():
            start = time.perf_counter()
            losses[name].append(update(i))
            times[name].append(time.perf_counter() - start)
    print(f"{size}: batches of {batch_size} cells")
    rates, ratios = {}, {}
    for name, seconds in times.items():
        rates[name] = batch_size / float(np.median(seconds[2:]))
        of_turns = np.array(times["padded"][2:]) / np.array(seconds[2:])
        ratios[name] = float(np.median(of_turns))
        print(
            f"  {name:10} {rates[name]:7.2f} cells/s, {ratios[name]:5.2f} x padded ({of_turns.min():.2f} to "
            f"{of_turns.max():.2f}); first step {seconds[0]:.1f} s; losses {np.round(losses[name][:3], 4)}"
        )
    record(f"training, {size}", ratio=ratios, cells_per_second=rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", nargs="+", choices=SIZES, default=list(SIZES))
    for size in parser.parse_args().size:
        measure(size)


if __name__ == "__main__":
    main()
