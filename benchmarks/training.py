"""Cells per second of training against the loop that one writes first: PyNative, cells padded to one length, nn.Adam.

    python -m benchmarks.training

Same network, same weights at the start, same cells, masks and objective; the two take turns.
"""

import time
from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import nn

from benchmarks.record import record
from benchmarks.synthetic import random_counts, random_model
from cellfm.config import TrainConfig
from cellfm.data import CellTable
from cellfm.nn import build_network, name_parameters
from cellfm.train._feed import Batch, Feed
from cellfm.train._objective import PretrainObjective
from cellfm.train._step import Step

BATCH = 16
STEPS = 6


def padded_loop(objective: PretrainObjective, parameters: dict[str, ms.Parameter]) -> Callable[[Batch], float]:
    """``value_and_grad`` and ``nn.Adam``, one operation after the other."""
    optimizer = nn.Adam(list(parameters.values()), 3e-4, beta2=0.95)
    step = ms.value_and_grad(objective, None, optimizer.parameters, has_aux=True)

    def update(batch: Batch) -> float:
        objective.set_train(True)
        (loss, _), gradients = step(*map(ms.Tensor, batch.micro[0]))
        optimizer(gradients)
        return float(loss)

    return update


def main() -> None:
    model = random_model(128, 8, d_value=64)
    counts = random_counts(BATCH * (STEPS + 2))
    cells = CellTable.from_counts(
        counts, np.arange(1, counts.shape[1] + 1, dtype=np.int32), model.vocab, np.zeros(counts.shape[0], bool)
    )
    # cellfm packs a batch into two micro-batches, with room for cells above the average, and adds their gradients.
    config = TrainConfig(batch_size=BATCH, n_chunks=BATCH * 10, dropout=0.0, clip="none", weight_decay=0.0)
    packed, padded = (Feed(cells, model.config, config) for _ in range(2))
    padded.length = model.config.max_genes + 1  # one chunk a cell: padding to the longest that there may be
    padded.config = TrainConfig.from_dict({**vars(config), "n_chunks": BATCH})

    def fresh() -> tuple[PretrainObjective, dict[str, ms.Parameter]]:
        network = build_network(model.config, model.weights, dropout=0.0)
        return PretrainObjective(network, config), name_parameters(network)

    ms.runtime.launch_blocking()  # the faster of PyNative's two ways on a CPU
    slow = padded_loop(*fresh())
    step = Step(*fresh(), config)
    losses: dict[str, list[float]] = {"padded, PyNative": [], "cellfm": []}
    times: dict[str, list[float]] = {name: [] for name in losses}
    for i in range(STEPS):
        for name, update in (
            ("padded, PyNative", lambda: slow(padded.batch(i))),  # noqa: B023 (called at once)
            ("cellfm", lambda: step(packed.batch(i).micro, i).loss),  # noqa: B023
        ):
            start = time.perf_counter()
            losses[name].append(update())
            times[name].append(time.perf_counter() - start)
    for name, seconds in times.items():
        print(f"{name:18} {BATCH / np.median(seconds[2:]):6.1f} cells/s; losses {np.round(losses[name][:3], 4)}")
    ratios = np.array(times["padded, PyNative"][2:]) / np.array(times["cellfm"][2:])
    rates = {name: BATCH / float(np.median(seconds[2:])) for name, seconds in times.items()}
    record("training", ratio=float(np.median(ratios)), **rates)
    print(f"ratio              {np.median(ratios):6.2f} (median; {ratios.min():.2f} to {ratios.max():.2f})")


if __name__ == "__main__":
    main()
