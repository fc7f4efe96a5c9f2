"""Time and memory of attention over the number of tokens: ERetNet's linear form, RetNet's parallel form, softmax.

python -m benchmarks.attention

One attention layer of width 256 with 8 heads, forward and backward, one cell of 256 to 8,192 tokens, in MindSpore's
graph mode (paper, Results, efficiency of ERetNet). A process each, because memory is a peak.
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

    import mindspore as ms
    import numpy as np
    from mindspore import nn, ops

    from cellfm.config import ModelConfig
    from cellfm.nn._ablations import DecayRetention
    from cellfm.nn._retention import GatedRetention

    class Softmax(GatedRetention):
        def construct(self, x, key_mask, value_scale, layout):
            q, k, v = (self.split_heads(part(x)) for part in (self.query, self.key, self.value))
            pairs = ops.softmax(ops.matmul(q, k.swapaxes(2, 3)) * self.scale, -1)
            return self.output(self.join_heads(ops.matmul(pairs, v)) * ops.silu(self.gate(x)))

    kinds = {WAYS[0]: GatedRetention, WAYS[1]: DecayRetention, WAYS[2]: Softmax}
    config = ModelConfig(n_layers=2, d_model=WIDTH, n_heads=HEADS, n_genes=10)
    layer = kinds[way](config)
    generator = np.random.default_rng(0)
    for parameter in layer.get_parameters():
        parameter.set_data(ms.Tensor(0.05 * generator.standard_normal(parameter.shape, np.float32)))
    x = ms.Tensor(generator.standard_normal((1, length, WIDTH), np.float32))
    mask, scale = (
        ms.Tensor(np.ones((1, length, 1), np.float32)),
        ms.Tensor(np.full((1, 1, 1), length**-0.5, np.float32)),
    )
    places = ms.Tensor(np.zeros(1, np.int32))
    layout = (ms.Tensor(np.ones((1, length), np.int32)), mask.squeeze(-1), places, places)

    class Loss(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def construct(self, x):
            out = self.layer(x, mask, scale, layout)
            return (out * out).mean()

    gradient = ms.jit(ms.value_and_grad(Loss(), None, list(layer.get_parameters())))
    before = memory_gb("VmRSS")
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        gradient(x)[0].asnumpy()
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
