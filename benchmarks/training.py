"""Cells per second of training against the loop that one writes first: cells padded to one length, nn.Adam.

    python -m benchmarks.training

The loop is over `padded.py`, with loss and gradients compiled. Same weights at the start, same cells, masks and
objective; the two take turns.
"""

import time
from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import nn

from benchmarks.padded import PaddedObjective
from benchmarks.record import record
from benchmarks.synthetic import random_counts, random_model
from cellfm.config import TrainConfig
from cellfm.data import CellTable
from cellfm.nn import build_network, name_parameters
from cellfm.train._feed import Batch, Feed, MicroBatch
from cellfm.train._objective import PretrainObjective
from cellfm.train._step import Step

BATCH = 64
MICRO = 16
"""Cells of a micro-batch of the padded loop; those of cellfm have as many chunks as so many cells need."""
STEPS = 8
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
        found = [step(*arrays) for arrays in map(without_cls, batch.micro)]
        optimizer(tuple(sum(grads[1:], start=grads[0]) for grads in zip(*(grads for _, grads in found), strict=True)))
        return float(sum(float(loss) for loss, _ in found))

    return update


def without_cls(micro: MicroBatch) -> list[ms.Tensor]:
    """What `PaddedObjective` takes, which places CLS itself."""
    arrays = (micro.gene_ids, micro.values, micro.visible, micro.mask, micro.target * micro.one_by_targets)
    return [ms.Tensor(np.ascontiguousarray(array[:, 1:])) for array in arrays]


def main() -> None:
    model = random_model(128, 2, d_value=64)
    counts = random_counts(BATCH * (STEPS + 2))
    cells = CellTable.from_counts(
        counts, np.arange(1, counts.shape[1] + 1, dtype=np.int32), model.vocab, np.zeros(counts.shape[0], bool)
    )
    config = TrainConfig(
        learning_rate=RATE, batch_size=BATCH, n_chunks=MICRO * 19, dropout=0.0, clip="none", weight_decay=0.0
    )
    packed, padded = (Feed(cells, model.config, config) for _ in range(2))
    padded.length = model.config.max_genes + 1  # one chunk a cell: padding to the longest that there may be
    padded.config = TrainConfig.from_dict({**vars(config), "n_chunks": MICRO})

    def fresh() -> tuple[PretrainObjective, dict[str, ms.Parameter]]:
        network = build_network(model.config, model.weights, dropout=0.0)
        return PretrainObjective(network, config), name_parameters(network)

    loop = padded_loop(PaddedObjective(model.config, model.weights))
    step = Step(*fresh(), config)
    losses: dict[str, list[float]] = {"padded": [], "cellfm": []}
    times: dict[str, list[float]] = {name: [] for name in losses}
    for i in range(STEPS):
        for name, update in (
            ("padded", lambda: loop(padded.batch(i))),  # noqa: B023 (called at once)
            ("cellfm", lambda: step(packed.batch(i).micro, i).loss),  # noqa: B023
        ):
            start = time.perf_counter()
            losses[name].append(update())
            times[name].append(time.perf_counter() - start)
    for name, seconds in times.items():
        print(f"{name:18} {BATCH / np.median(seconds[2:]):6.1f} cells/s; losses {np.round(losses[name][:3], 4)}")
    rates = {name: BATCH / float(np.median(seconds[2:])) for name, seconds in times.items()}
    ratios = np.array(times["padded"][2:]) / np.array(times["cellfm"][2:])
    print(f"ratio              {np.median(ratios):6.2f} (median; {ratios.min():.2f} to {ratios.max():.2f})")
    record("training", ratio=float(np.median(ratios)), **rates)


if __name__ == "__main__":
    main()
