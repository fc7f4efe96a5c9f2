"""The operations of `cellfm.engines.operations` in NumPy and float64, from their definitions."""

import numpy as np


def hashed(x):
    """(..., ) int32 to int32; it wraps around."""
    for factor, shift in ((-1640531527, 15), (-2048144789, 13), (-1028477387, 16)):
        x = x * np.int32(factor)
        x = x ^ (x >> np.int32(shift))
    return x


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class NumpyOperations:
    """Values alone; gradients are those of finite differences."""

    abs, exp, log, sign, tanh = np.abs, np.exp, np.log, np.sign, np.tanh
    maximum, minimum = np.maximum, np.minimum

    def linear(self, x, weight):
        return x @ weight.T

    def product(self, x, weight):
        return x @ weight

    def matmul(self, a, b, *, transpose_a=False):
        return (a.swapaxes(-1, -2) if transpose_a else a) @ b

    def take(self, x, index):
        return x[index]

    def weighted_rows(self, x, index, weight):
        rows = x[index].reshape(*index.shape, weight.shape[2], -1)
        return (rows * weight[..., None]).sum(1)

    def pick(self, x, index):
        return x[np.arange(len(x)), index]

    def segment_sum(self, x, segment, like):
        out = np.zeros((len(like), *x.shape[1:]))
        np.add.at(out, segment, x)
        return out

    def mean_rows(self, x):
        return x.mean(0)

    def concat(self, arrays, axis):
        return np.concatenate(arrays, axis)

    def stack(self, arrays, axis):
        return np.stack(arrays, axis)

    def split(self, x, n):
        return np.split(x, n, -1)

    def broadcast_to(self, x, shape):
        return np.broadcast_to(x, shape)

    def arange(self, n):
        return np.arange(n, dtype=np.int32)

    def eye(self, n):
        return np.eye(n)

    def zeros_like(self, x):
        return np.zeros_like(x)

    def float32(self, x):
        return np.asarray(x, float)

    def rsqrt(self, x):
        return 1 / np.sqrt(x)

    def relu(self, x):
        return np.where(x > 0, x, 0)

    def leaky_relu(self, x, slope):
        return np.where(x > 0, x, slope * x)

    def silu(self, x):
        return x * sigmoid(x)

    def sigmoid(self, x):
        return sigmoid(x)

    def softmax(self, x):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def logsumexp(self, x):
        most = x.max(-1)
        return most + np.log(np.exp(x - most[..., None]).sum(-1))

    def layer_norm(self, x, gamma, beta):
        return gamma * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-7) + beta

    def rms_norm(self, x):
        return x / np.maximum(np.sqrt((x * x).mean(-1, keepdims=True)), 1e-12)

    def stop_gradient(self, x):
        return x

    def reverse_gradient(self, x, scale):
        return x

    def dropout(self, x, key, threshold, scale):
        d = x.shape[-1]
        key = np.asarray(key, np.int32)
        rows = hashed(np.arange(x.size // d, dtype=np.int32) + key)[:, None]
        both = rows ^ hashed(np.arange(d, dtype=np.int32) - key)[None]
        return x * (both * (both + both + 1) >= threshold).reshape(x.shape) * scale

    def layers(self, layer, x, weights, extras):
        if isinstance(weights, dict):  # stacked
            weights = [_at(weights, i) for i in range(len(extras))]
        for own, extra in zip(weights, extras, strict=True):
            x = layer(x, own, extra)
        return x

    def stacked(self, weights):
        return list(weights)


def _at(stacked, i):
    return {name: _at(part, i) for name, part in stacked.items()} if isinstance(stacked, dict) else stacked[i]
