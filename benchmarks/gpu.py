"""What a GPU makes of CellFM: golden parity, inference and training, in float32 and bfloat16, in under six minutes.

    python -m benchmarks.gpu [--out FILE.json] [--sizes mini 80M 800M] [--quick]

For a bare machine with JAX, optax, NumPy, SciPy and pandas, without a network. Cells per second, TFLOP/s of the
products that are left, their share of the rate that the device reaches on one large product, and peak memory.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from benchmarks.synthetic import N_GENES, random_counts, random_model
from cellfm.cells.chunk import CHUNK, chunk_cells, fill_batches
from cellfm.cells.tokenize import TokenBatch, tokenize
from cellfm.config import ModelConfig, TrainConfig
from cellfm.engines import Objective, start_engine
from cellfm.genes.vocabulary import Vocabulary
from cellfm.model import CellFM, load_model
from cellfm.nn.objectives import pretraining
from cellfm.nn.weights import nest

GOLDEN = Path(__file__).parent.parent / "tests" / "data" / "golden"
SIZES = {  # width, heads, layers, width of the value table, cells of inference, chunks of a training step
    "mini": (128, 2, 2, 64, 16_384, 2048),
    "80M": (1536, 48, 2, 256, 2_048, 512),
    "800M": (1536, 48, 40, 256, 256, 64),
}
PRECISIONS = ("float32", "bfloat16")
N_STEPS = 5


def golden_differences() -> dict[str, float]:
    """The largest difference of each golden model's outputs."""
    worst = {}
    for path in sorted(GOLDEN.glob("*.json")):
        facts, arrays = json.loads(path.read_text()), dict(np.load(path.with_suffix(".npz")))
        vocab = Vocabulary(pd.DataFrame({"symbol": [f"GENE{i:03d}" for i in range(facts["n_genes"])]}))
        model = load_model(path.with_suffix(".ckpt"), vocab, n_heads=facts["heads"], backend="jax")
        tokens = TokenBatch(arrays["indptr"], (arrays["genes"] + 1).astype(np.int32), arrays["expression"])
        names = {"cell": "cls", "tokens": "tokens", "gene_wise": "gene_wise", "cell_wise": "cell_wise"}
        encoded = model.encode(tokens, outputs=tuple(names))
        worst[path.stem] = max(
            float(np.abs(getattr(encoded, ours) - arrays[theirs]).max()) for ours, theirs in names.items()
        )
    return worst


def product_rate(precision: str, n: int) -> float:
    """TFLOP/s of one product of n x n matrices, the best of some."""
    x = jnp.ones((n, n), precision)
    exact = jax.lax.Precision.HIGHEST if precision == "float32" else None
    times = jax.jit(lambda a: jnp.dot(a, a, precision=exact))
    times(x).block_until_ready()
    seconds = [_seconds(lambda: times(x).block_until_ready()) for _ in range(10)]
    return 2.0 * n**3 / min(seconds) / 1e12


def products_of_a_token(config: ModelConfig, *, training: bool) -> float:
    """Operations of the products that one token needs: in use of all layers but the last, there of keys alone."""
    d, w, k = config.d_model, config.d_value, config.d_head
    layer = 8 * d * d + 2 * d * k
    if training:  # forward, and twice that backward; both decoders
        return 3 * 2.0 * (config.n_layers * layer + w * w + w * d + 2 * d * d)
    return 2.0 * ((config.n_layers - 1) * layer + d * d + config.n_heads * d + w * d)


def inference(model: CellFM, tokens: TokenBatch, precision: str) -> dict[str, float]:
    own = CellFM(model.config, model.vocab, model.weights, backend="jax", precision=precision)
    own.encode(tokens)  # compiles
    seconds = min(_seconds(lambda: own.encode(tokens)) for _ in range(3))
    n_flop = products_of_a_token(model.config, training=False) * len(tokens.gene_ids)
    return {"cells_per_second": tokens.n_cells / seconds, "tflops": n_flop / seconds / 1e12}


def training(model: CellFM, tokens: TokenBatch, precision: str, n_chunks: int) -> dict[str, float]:
    config = TrainConfig(n_chunks=n_chunks, dropout=0.0, precision=precision, recompute=model.config.n_layers > 10)
    objective = Objective(pretraining(model.config, config))
    trainer = start_engine("jax").trainer(objective, model.weights, list(model.weights), config, nest)
    cells = next(iter(fill_batches(tokens.lengths, n_chunks=n_chunks, n_slots=n_chunks)))
    micro = [micro_batch(tokens, cells, n_chunks)]
    trainer(micro, 0)
    seconds = min(_seconds(lambda: trainer(micro, 1)) for _ in range(N_STEPS))
    n_flop = products_of_a_token(model.config, training=True) * n_chunks * CHUNK
    return {"cells_per_second": len(cells) / seconds, "tflops": n_flop / seconds / 1e12}


def micro_batch(tokens: TokenBatch, cells: np.ndarray, n_chunks: int) -> tuple[Any, ...]:
    """The arrays of `cellfm.train._feed.MicroBatch`, a fifth of the values asked for and hidden."""
    chunks = chunk_cells(tokens, cells, n_chunks=n_chunks, n_slots=n_chunks)
    target = (chunks.gene_ids > 0) & (np.random.default_rng(0).random(chunks.mask.shape) < 0.2)
    target = target.astype(np.float32)
    return (
        *(chunks.gene_ids, chunks.values, 1 - target, chunks.mask, chunks.chunk_cell, chunks.cls_row, target),
        *(np.full(n_chunks, -1, np.int32), np.full(n_chunks, -1, np.int32)),
        *(np.float32(1 / target.sum()), np.float32(1)),
    )


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _peak_gb() -> float | None:
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats["peak_bytes_in_use"] / 1e9 if "peak_bytes_in_use" in stats else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--quick", action="store_true", help="a rehearsal on a CPU: few cells, small products")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"device": str(jax.local_devices()[0].device_kind), "jax": jax.__version__}
    found["golden"] = golden_differences()
    found["product_tflops"] = {p: product_rate(p, 512 if arguments.quick else 8192) for p in PRECISIONS}
    print(json.dumps(found, indent=1), flush=True)
    for size in arguments.sizes:
        d, n_heads, n_layers, d_value, n_cells, n_chunks = SIZES[size]
        if arguments.quick:
            n_layers, n_cells, n_chunks = min(n_layers, 6), max(4, n_cells // 512), max(32, n_chunks // 32)
        model = random_model(d, n_heads, n_layers, d_value=d_value)
        tokens = tokenize(random_counts(n_cells), np.arange(1, N_GENES + 1, dtype=np.int32), max_genes=2048)
        for precision in PRECISIONS:
            for name, measure in (
                ("inference", lambda: inference(model, tokens, precision)),  # noqa: B023 (called at once)
                ("training", lambda: training(model, tokens, precision, n_chunks)),  # noqa: B023
            ):
                try:
                    row: dict[str, Any] = measure()
                    row["share"] = row["tflops"] / found["product_tflops"][precision]
                except Exception as error:  # noqa: BLE001 (one size may not fit; the others are of use)
                    row = {"error": str(error)[:300]}
                row["peak_gb"] = _peak_gb()
                found[f"{name}, {size}, {precision}"] = row
                print(f"{name}, {size}, {precision}: {json.dumps(row)}", flush=True)
                if arguments.out:
                    arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
