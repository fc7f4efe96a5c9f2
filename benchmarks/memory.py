"""Peak memory of embedding, beside the padded network: same weights and cells, a process each, because it is a peak.

python -m benchmarks.memory [--size mini 80M]

Counted is what comes on top of the weights and the tokens, when the network is built and the cells are embedded twice:
copies of the weights, tables of a folded layer, what is compiled, and what a batch needs.
"""

import argparse
import json
import subprocess
import sys

from benchmarks.record import memory_gb, record

SIZES = ("mini", "80M")
WAYS = ("padded to 2048", "cellfm, MindSpore", "cellfm, JAX", "cellfm, JAX bfloat16")


def measure(size: str, way: str) -> float:
    """Gigabytes above what the process held before."""
    import jax
    import mindspore as ms
    import numpy as np

    from benchmarks.embedding import SIZES as SHAPES
    from benchmarks.padded import PaddedEncoder
    from benchmarks.synthetic import N_GENES, random_counts, random_model
    from cellfm.cells.tokenize import tokenize
    from cellfm.model import CellFM, load_model

    d, h, n_layers, w, n_cells, padded_batch = SHAPES[size]
    model = load_model("mini") if size == "mini" else random_model(d, h, n_layers, d_value=w)
    tokens = tokenize(random_counts(n_cells), np.arange(1, N_GENES + 1, dtype=np.int32), max_genes=2048)
    (ms.Tensor([1.0]) + 1).asnumpy(), jax.numpy.zeros(1).block_until_ready()  # both libraries are there
    before = memory_gb("VmRSS")
    if way == WAYS[0]:
        encode = PaddedEncoder(model.config, model.weights, batch_size=padded_batch).encode
    else:
        backend, precision = "mindspore" if way == WAYS[1] else "jax", "bfloat16" if way == WAYS[3] else "float32"
        own = CellFM(model.config, model.vocab, model.weights, backend=backend, precision=precision)
        own.prepare(10**9)  # as for many cells, so that the first layer is folded where that pays
        encode = own.encode
    for _ in range(2):
        encode(tokens)
    return memory_gb("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "WAY"), help="one measure, as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one)))
        return
    for size in arguments.size:
        found = {}
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.memory", "--one", size, way]
            ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            found[way] = json.loads(ran.stdout.splitlines()[-1])
            print(f"{size:5} {way:21} {found[way]:6.2f} GB", flush=True)
        record(f"memory, {size}", **found)


if __name__ == "__main__":
    main()
