"""Cells per second of training against the loop that one writes first: cells padded to one length, nn.Adam.

    python -m benchmarks.training

Once our network as it runs by itself (PyNative), once `padded.py` with loss and gradients compiled. Same weights at the
start, same cells, masks and objective; they take turns.
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
from cellfm.train._feed import Batch, Feed
from cellfm.train._objective import PretrainObjective
from cellfm.train._step import Step

BATCH = 16
STEPS = 8
RATE = 3e-4


def plain_loop(objective: PretrainObjective, parameters: dict[str, ms.Parameter]) -> Callable[[Batch], float]:
    """``value_and_grad`` and ``nn.Adam`` on our own network, one operation after the other."""
    optimizer = nn.Adam(list(parameters.values()), RATE, beta2=0.95)
    step = ms.value_and_grad(objective, None, optimizer.parameters, has_aux=True)

    def update(batch: Batch) -> float:
        objective.set_train(True)
        (loss, _), gradients = step(*map(ms.Tensor, batch.micro[0]))
        optimizer(gradients)
        return float(loss)

    return update


def compiled_loop(objective: PaddedObjective) -> Callable[[Batch], float]:
    """Loss and gradients of the network as one writes it first, compiled as a whole, and ``nn.Adam``."""
    parameters = list(objective.w)
    optimizer = nn.Adam(parameters, RATE, beta2=0.95)
    gradient = ms.value_and_grad(objective, None, ms.ParameterTuple(parameters))

    def forward_and_back(gene_ids, values, visible, mask, target):
        return gradient(gene_ids, values, visible, mask, target)

    step = ms.jit(forward_and_back)

    def update(batch: Batch) -> float:
        micro = batch.micro[0]
        arrays = (micro.gene_ids, micro.values, micro.visible, micro.mask, micro.target * micro.one_by_targets)
        loss, gradients = step(*(ms.Tensor(np.ascontiguousarray(array[:, 1:])) for array in arrays))  # CLS is its own
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
    config = TrainConfig(
        learning_rate=RATE, batch_size=BATCH, n_chunks=BATCH * 10, dropout=0.0, clip="none", weight_decay=0.0
    )
    packed, padded = (Feed(cells, model.config, config) for _ in range(2))
    padded.length = model.config.max_genes + 1  # one chunk a cell: padding to the longest that there may be
    padded.config = TrainConfig.from_dict({**vars(config), "n_chunks": BATCH})

    def fresh() -> tuple[PretrainObjective, dict[str, ms.Parameter]]:
        network = build_network(model.config, model.weights, dropout=0.0)
        return PretrainObjective(network, config), name_parameters(network)

    ms.runtime.launch_blocking()  # the faster of PyNative's two ways on a CPU
    plain, compiled = plain_loop(*fresh()), compiled_loop(PaddedObjective(model.config, model.weights))
    step = Step(*fresh(), config)
    losses: dict[str, list[float]] = {"padded, PyNative": [], "padded, compiled": [], "cellfm": []}
    times: dict[str, list[float]] = {name: [] for name in losses}
    for i in range(STEPS):
        for name, update in (
            ("padded, PyNative", lambda: plain(padded.batch(i))),  # noqa: B023 (called at once)
            ("padded, compiled", lambda: compiled(padded.batch(i))),  # noqa: B023
            ("cellfm", lambda: step(packed.batch(i).micro, i).loss),  # noqa: B023
        ):
            start = time.perf_counter()
            losses[name].append(update())
            times[name].append(time.perf_counter() - start)
    for name, seconds in times.items():
        print(f"{name:18} {BATCH / np.median(seconds[2:]):6.1f} cells/s; losses {np.round(losses[name][:3], 4)}")
    rates = {name: BATCH / float(np.median(seconds[2:])) for name, seconds in times.items()}
    ratios = {}
    for name in ("padded, PyNative", "padded, compiled"):
        each = np.array(times[name][2:]) / np.array(times["cellfm"][2:])
        ratios[f"over {name}"] = float(np.median(each))
        print(f"over {name:18} {np.median(each):6.2f} x (median; {each.min():.2f} to {each.max():.2f})")
    record("training", **ratios, **rates)


if __name__ == "__main__":
    main()
