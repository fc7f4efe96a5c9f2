"""The operations of `cellfm.engines.operations` in MindSpore, with gradients of their own where its are slow.

On a CPU, MindSpore's gradients of norms were a third of the time of training: that of LayerNorm takes a power for every
element, and reductions are slow over several axes and over short rows. Its gradient of a segment sum takes masks as
large as what is summed.
"""

import mindspore as ms
from mindspore import nn, ops

from cellfm.engines.operations import LAYER_NORM_EPS, RMS_FLOOR

TYPES = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}


class Normalise(nn.Cell):
    """``gamma n + beta`` with ``n = (x - mean) / deviation``."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=LAYER_NORM_EPS)

    def construct(self, x: ms.Tensor, gamma: ms.Tensor, beta: ms.Tensor) -> ms.Tensor:
        return self.norm(x, gamma, beta)[0]

    def bprop(self, x, gamma, beta, out, dout) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        flat, dy = x.reshape((-1, x.shape[-1])), dout.reshape((-1, x.shape[-1]))  # (t, d)
        centred = flat - mean(flat)
        inv_variance = 1 / (mean(centred * centred) + LAYER_NORM_EPS)  # (t, 1)
        inv_deviation = ops.sqrt(inv_variance)
        dy_centred = dy * centred
        along = ops.matmul(dy_centred, gamma.reshape((-1, 1)) / x.shape[-1]) * inv_variance  # (t, 1)
        dn = dy * gamma
        dx = (dn - mean(dn) - centred * along) * inv_deviation
        dgamma = ops.matmul(inv_deviation.reshape((1, -1)), dy_centred).reshape((-1,))
        return dx.reshape(x.shape), dgamma, dy.sum(0)


class RMSNorm(nn.Cell):
    """Divide by the root mean square over the last axis."""

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        flat = x.reshape((-1, x.shape[-1]))
        return (flat / root_mean_square(flat)).reshape(x.shape)

    def bprop(self, x, out, dout) -> tuple[ms.Tensor]:
        shape = (-1, x.shape[-1])
        flat, y, dy = x.reshape(shape), out.reshape(shape), dout.reshape(shape)
        return (((dy - y * mean_of_few(dy * y)) / root_mean_square(flat)).reshape(x.shape),)


class SegmentSum(nn.Cell):
    """The sum of the rows of each segment, as many as `like` has; its gradient is a gather."""

    def construct(self, x: ms.Tensor, segment: ms.Tensor, like: ms.Tensor) -> ms.Tensor:
        return ops.unsorted_segment_sum(x, segment, like.shape[0])

    def bprop(self, x, segment, like, out, dout) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        return ops.gather(dout, segment, 0), ops.zeros_like(segment), ops.zeros_like(like)


class ReverseGradient(nn.Cell):
    """The identity, whose gradient is ``-scale`` times that of the output."""

    def construct(self, x: ms.Tensor, scale: ms.Tensor) -> ms.Tensor:
        return x

    def bprop(self, x: ms.Tensor, scale: ms.Tensor, out: ms.Tensor, dout: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        return -scale * dout, ops.zeros_like(scale)


def root_mean_square(x: ms.Tensor) -> ms.Tensor:
    """(t, k) to (t, 1)."""
    return ops.sqrt(ops.maximum(mean_of_few(x * x), RMS_FLOOR**2))


def mean(x: ms.Tensor) -> ms.Tensor:
    """(t, d) to (t, 1)."""
    return x.sum(-1, keepdims=True) / x.shape[-1]


def mean_of_few(x: ms.Tensor) -> ms.Tensor:
    """(t, k) to (t, 1): as a product, three times faster than a reduction where rows are short."""
    return ops.matmul(x, ops.ones((x.shape[-1], 1), ms.float32) / x.shape[-1])


def hashed(x: ms.Tensor) -> ms.Tensor:
    """A bijection of int32 whose output looks random (multiplications and shifts, as in MurmurHash)."""
    for factor, shift in ((-1640531527, 15), (-2048144789, 13), (-1028477387, 16)):
        x = x * factor
        x = ops.bitwise_xor(x, ops.bitwise_right_shift(x, ms.Tensor(shift, ms.int32)))
    return x


@ms.jit_class
class MindSporeOperations:
    """Operations whose products compute in `precision`; all sums, norms and weights are float32."""

    def __init__(self, precision: str = "float32") -> None:
        self.type = TYPES[precision]
        self.by_rows = ops.MatMul(transpose_b=True)
        self.by_columns = ops.MatMul()
        self.batched = ops.BatchMatMul()  # these two do not copy what they transpose
        self.batched_transposed = ops.BatchMatMul(transpose_a=True)
        self.layer_norm, self.rms_norm = Normalise(), RMSNorm()
        self.segment_sum, self.reverse_gradient = SegmentSum(), ReverseGradient()
        self.abs, self.exp, self.log, self.sign, self.tanh = ops.abs, ops.exp, ops.log, ops.sign, ops.tanh
        self.maximum, self.minimum, self.rsqrt = ops.maximum, ops.minimum, ops.rsqrt
        self.relu, self.leaky_relu, self.silu, self.sigmoid = ops.relu, ops.leaky_relu, ops.silu, ops.sigmoid
        self.zeros_like, self.stop_gradient = ops.zeros_like, ops.stop_gradient
        self.broadcast_to, self.concat, self.stack = ops.broadcast_to, ops.concat, ops.stack

    def linear(self, x, weight):
        flat = x.reshape((-1, x.shape[-1]))  # one large product: with three axes the weight is repeated in memory
        if self.type != ms.float32:
            product = self.by_rows(flat.astype(self.type), weight.astype(self.type)).astype(ms.float32)
        else:
            product = self.by_rows(flat, weight)
        return product.reshape(x.shape[:-1] + (weight.shape[0],))  # noqa: RUF005 (jit has no *)

    def product(self, x, weight):
        flat = x.reshape((-1, x.shape[-1]))
        if self.type != ms.float32:
            product = self.by_columns(flat.astype(self.type), weight.astype(self.type)).astype(ms.float32)
        else:
            product = self.by_columns(flat, weight)
        return product.reshape(x.shape[:-1] + (weight.shape[1],))  # noqa: RUF005

    def matmul(self, a, b, transpose_a=False):
        if a.ndim == 2:
            return ops.matmul(a.T if transpose_a else a, b)
        return self.batched_transposed(a, b) if transpose_a else self.batched(a, b)

    def take(self, x, index):
        return ops.gather(x, index, 0)

    def weighted_rows(self, x, index, weight):
        c, s, h = weight.shape
        rows = ops.gather(x, index, 0).reshape((c, s, h, x.shape[1] // h))
        return (rows * weight.expand_dims(-1)).sum(1)

    def pick(self, x, index):
        return ops.gather_elements(x, 1, index.expand_dims(-1)).squeeze(-1)

    def mean_rows(self, x):
        n = x.shape[0]
        return ops.matmul(ops.ones((1, n), ms.float32) / n, x).reshape((-1,))

    def split(self, x, n):
        size = x.shape[-1] // n
        parts = ()
        for i in range(n):
            parts = parts + (x[..., i * size : (i + 1) * size],)  # type: ignore[assignment]  # noqa: RUF005
        return parts

    def arange(self, n):
        return ops.arange(n).astype(ms.int32)

    def eye(self, n):
        return ops.eye(n, n, ms.float32)

    def float32(self, x):
        return x.astype(ms.float32)

    def softmax(self, x):
        return ops.softmax(x, -1)

    def logsumexp(self, x):
        return ops.logsumexp(x, -1)

    def dropout(self, x, key, threshold, scale):
        d = x.shape[-1]
        rows = hashed(ops.arange(x.size // d).astype(ms.int32) + key)
        columns = hashed(ops.arange(d).astype(ms.int32) - key)
        both = ops.bitwise_xor(rows.reshape((-1, 1)), columns.reshape((1, -1)))
        kept = (both * (both + both + 1) >= threshold).astype(ms.float32).reshape(x.shape)  # wraps around
        return x * ops.stop_gradient(kept * scale)

    def layers(self, layer, x, weights, extras):
        for i in range(len(weights)):
            x = layer(x, weights[i], extras[i])
        return x

    def stacked(self, weights):
        return weights
