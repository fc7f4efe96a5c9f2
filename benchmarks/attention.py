"""Time and memory of attention over the number of tokens: ERetNet's linear form, RetNet's parallel form, softmax.

python -m benchmarks.attention

One attention layer of width 256 with 8 heads, forward and backward, one cell of 256 to 8,192 tokens, compiled by
JAX (paper, Results, efficiency of ERetNet). A process each, because memory is a peak.
"""

import argparse
import json
import subprocess
import sys

from benchmarks.record import memory_gb, record

WIDTH, HEADS = 256, 8
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
WAYS = ("linear (ERetNet)", "parallel (RetNet)", "softmax")


def measure(way: str, length: int, repeats: int = 5) -> tuple[float, float]:
    """Seconds of a gradient, the best of some, and gigabytes above what the process held before."""
    import time

    import jax
    import numpy as np

    from cellfm.config import ModelConfig
    from cellfm.engines.jax.operations import JaxOperations
    from cellfm.nn.attention import attention, join_heads, split_heads
    from cellfm.nn.linear import linear

    linear_form = ModelConfig(n_layers=2, d_model=WIDTH, n_heads=HEADS, n_genes=10)
    parallel_form = ModelConfig(n_layers=2, d_model=WIDTH, n_heads=HEADS, n_genes=10, retention="decay")
    xp, generator = JaxOperations(), np.random.default_rng(0)
    names = ("query", "key", "value", "gate", "output")
    weights = {name: {"weight": 0.05 * generator.standard_normal((WIDTH, WIDTH), np.float32)} for name in names}
    x = generator.standard_normal((1, length, WIDTH), np.float32)
    mask, scale = np.ones((1, length, 1), np.float32), np.full((1, 1, 1), length**-0.5, np.float32)
    layout = (np.ones((1, length), np.int32), mask[..., 0], np.zeros(1, np.int32), np.zeros(1, np.int32))

    def softmax_attention(p, x):
        query, key, value = (split_heads(linear_form, linear(xp, p[name], x)) for name in names[:3])
        pairs = xp.softmax(xp.matmul(query, key.swapaxes(2, 3)) * linear_form.d_head**-0.5)
        read = join_heads(xp.matmul(pairs, value))
        return linear(xp, p["output"], read * xp.silu(linear(xp, p["gate"], x)))

    forms = {
        WAYS[0]: lambda p, x: attention(xp, linear_form, p, x, mask, scale, layout),
        WAYS[1]: lambda p, x: attention(xp, parallel_form, p, x, mask, scale, layout),
        WAYS[2]: softmax_attention,
    }
    gradient = jax.jit(jax.value_and_grad(lambda p, x: (forms[way](p, x) ** 2).mean()))
    before = memory_gb("VmRSS")
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        jax.block_until_ready(gradient(weights, x))
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]), memory_gb("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=2, metavar=("WAY", "LENGTH"), help="one measure, as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], int(arguments.one[1]))))
        return
    found: dict[str, list[tuple[int, float, float]]] = {way: [] for way in WAYS}
    for length in LENGTHS:
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.attention", "--one", way, str(length)]
            ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            if ran.returncode:
                print(f"{length:5} tokens, {way:18} ended with code {ran.returncode}: more memory than there is?")
                continue
            seconds, gigabytes = json.loads(ran.stdout.splitlines()[-1])
            found[way].append((length, seconds, gigabytes))
            print(f"{length:5} tokens, {way:18} {1e3 * seconds:8.1f} ms, {gigabytes:6.3f} GB", flush=True)
    record("attention", ways=found)


if __name__ == "__main__":
    main()
