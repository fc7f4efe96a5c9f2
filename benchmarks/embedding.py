"""Cells per second of `CellFM.encode` against the padded network, same weights and cells, in turns.

python -m benchmarks.embedding --size mini|mini-open|80M|800M

`mini` is the shipped model, whose second layer is closed; the others have random weights, all layers open. At 800M size
four of the forty layers are timed, with the last one among them.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from benchmarks.gemm import peak
from benchmarks.padded import PaddedEncoder
from benchmarks.record import record
from benchmarks.synthetic import N_GENES, random_counts, random_model
from cellfm.cells.tokenize import TokenBatch, tokenize
from cellfm.model import CellFM, load_model
from cellfm.nn.parameters import n_active_layers

SIZES = {
    # width, heads, layers, width of the value table, cells, batch of the padded network (its fastest of those tried)
    "mini": (128, 2, 2, 64, 400, 8),
    "mini-open": (128, 2, 2, 64, 400, 8),
    "80M": (1536, 48, 2, 256, 24, 2),
    "800M": (1536, 48, 4, 256, 12, 2),
}


def flop_of(model: CellFM, n_tokens: int, *, jax: bool, folded: bool) -> float:
    """Operations that are left: of the first layer perhaps folded, of the last keys and, but for JAX, values."""
    c = model.config
    d, w, k, h = c.d_model, c.d_value, c.d_head, c.n_heads
    n_layers = n_active_layers(c, model.weights) if jax else c.n_layers
    layer = 8 * d * d + 2 * d * k
    first = 4 * d * (w - d) if folded else 0
    last = d * d + (h * d if jax else d * d + d * k)
    return 2.0 * n_tokens * ((n_layers - 1) * layer + last + w * d + first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    d, h, n_layers, w, n_cells, padded_batch = SIZES[arguments.size]
    model = load_model("mini") if arguments.size == "mini" else random_model(d, h, n_layers, d_value=w)
    tokens = tokenize(random_counts(n_cells), np.arange(1, N_GENES + 1, dtype=np.int32), max_genes=2048)
    padded = PaddedEncoder(model.config, model.weights, batch_size=padded_batch)
    ways: dict[str, Callable[[TokenBatch], np.ndarray]] = {"padded to 2048": padded.encode}
    for name, backend, precision in (
        ("cellfm, MindSpore", "mindspore", "float32"),
        ("cellfm, JAX", "jax", "float32"),
        ("cellfm, JAX bfloat16", "jax", "bfloat16"),
    ):
        own = CellFM(model.config, model.vocab, model.weights, backend=backend, precision=precision)
        ways[name] = lambda batch, own=own: own.encode(batch).cell
    outputs = {name: way(tokens) for name, way in ways.items()}  # compiles
    expected = outputs["padded to 2048"]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way(tokens)
            times[name].append(time.perf_counter() - start)
    limits = peak("80M" if d > SIZES["mini"][0] else "mini")
    print(f"{arguments.size}: {n_cells} cells of {tokens.lengths.mean():.0f} genes")
    rows = {}
    for name, seconds in times.items():
        found = outputs[name]
        cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
        ratios = np.array(times["padded to 2048"]) / np.array(seconds)
        folded = "JAX" in name and d >= 512 and n_layers == 2
        gflops = (
            flop_of(model, len(tokens.gene_ids) + tokens.n_cells, jax="JAX" in name, folded=folded) / min(seconds) / 1e9
        )
        limit = limits["jax" if "JAX" in name else "mindspore"]
        difference = float(np.abs(found - expected).max())
        rows[name] = {
            "cells_per_second": n_cells / min(seconds),
            "ratio": float(np.median(ratios)),
            "difference": difference,
        }
        print(
            f"  {name:21} {n_cells / min(seconds):8.2f} cells/s; {np.median(ratios):5.2f} x padded ({ratios.min():.2f} "
            f"to {ratios.max():.2f}); largest difference {difference:.1e}, cosine {cosine.min():.6f}"
            + ("" if name.startswith("padded") else f"; {gflops:.0f} of {limit:.0f} GFLOP/s, {gflops / limit:.0%}")
        )
    record(f"embedding, {arguments.size}", **rows)


if __name__ == "__main__":
    main()
