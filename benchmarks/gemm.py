"""What this machine can do: float32 products of NumPy, MindSpore and JAX in GFLOP/s, to read other figures against.

python -m benchmarks.gemm
"""

import time
from collections.abc import Callable

import numpy as np

from benchmarks.record import record

SHAPES = {"80M": (2112, 1536, 1536), "mini": (6144, 128, 256)}  # tokens computed at once, width in, width out


def rate(product: Callable[[], object], n_flop: float, repeats: int = 15) -> float:
    """The best of some calls, in GFLOP/s."""
    product()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - start)
    return n_flop / min(seconds) / 1e9


def peak(size: str = "80M") -> dict[str, float]:
    """GFLOP/s of each library on the products of a model's width."""
    import jax
    import mindspore as ms
    from mindspore import ops

    rows, d_in, d_out = SHAPES[size]
    x, w = (np.random.default_rng(0).standard_normal(shape, np.float32) for shape in ((rows, d_in), (d_in, d_out)))
    n_flop = 2.0 * rows * d_in * d_out
    jax_x, jax_w, times = jax.device_put(x), jax.device_put(w), jax.jit(lambda a, b: a @ b)
    ms_x, ms_w, matmul = ms.Tensor(x), ms.Tensor(w.T.copy()), ops.MatMul(transpose_b=True)

    @ms.jit
    def ms_times(a: ms.Tensor, b: ms.Tensor) -> ms.Tensor:
        return matmul(a, b)

    return {
        "numpy": rate(lambda: x @ w, n_flop),
        "mindspore": rate(lambda: ms_times(ms_x, ms_w).asnumpy(), n_flop),
        "jax": rate(lambda: times(jax_x, jax_w).block_until_ready(), n_flop),
    }


def main() -> None:
    for size in SHAPES:
        found = peak(size)
        print(f"{size}: " + ", ".join(f"{name} {value:.0f} GFLOP/s" for name, value in found.items()))
        record(f"gemm, {size}", **found)


if __name__ == "__main__":
    main()
