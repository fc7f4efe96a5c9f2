"""Cells per second of `cf.tl.embed`'s engine against the padded network, same weights and cells, in turns.

python -m benchmarks.embedding --size mini|80M
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from benchmarks.padded import PaddedEncoder
from benchmarks.synthetic import N_GENES, random_counts, random_model
from cellfm.data import TokenBatch, tokenize

SIZES = {
    # width, heads, width of the value table, cells, batch of the padded network (its fastest of those tried)
    "mini": (128, 8, 64, 400, 8),
    "80M": (1536, 48, 256, 24, 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    d, h, w, n_cells, padded_batch = SIZES[arguments.size]
    model = random_model(d, h, d_value=w)
    tokens = tokenize(random_counts(n_cells), np.arange(1, N_GENES + 1, dtype=np.int32), max_genes=2048)
    padded = PaddedEncoder(model.config, model.weights, batch_size=padded_batch)
    ways: dict[str, Callable[[TokenBatch], np.ndarray]] = {
        "padded to 2048": padded.encode,
        "cellfm": lambda batch: model.encode(batch).cell,
    }
    outputs = {name: way(tokens) for name, way in ways.items()}  # compiles
    difference = np.abs(outputs["cellfm"] - outputs["padded to 2048"]).max()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way(tokens)
            times[name].append(time.perf_counter() - start)
    print(
        f"{arguments.size}: {n_cells} cells of {tokens.lengths.mean():.0f} genes; largest difference {difference:.1e}"
    )
    for name, seconds in times.items():
        print(f"  {name:16} {n_cells / min(seconds):8.2f} cells/s (best of {arguments.repeats})")
    ratios = np.array(times["padded to 2048"]) / np.array(times["cellfm"])
    print(f"  ratio            {np.median(ratios):8.2f} (median; {ratios.min():.2f} to {ratios.max():.2f})")


if __name__ == "__main__":
    main()
