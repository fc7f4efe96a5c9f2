"""The operations of `cellfm.engines.operations` in JAX."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from cellfm.engines.operations import LAYER_NORM_EPS, RMS_FLOOR, Array, Weights

SCANNED_FROM = 5
"""Number of layers from which a single layer is compiled and scanned over."""


@partial(jax.tree_util.register_dataclass, data_fields=["part"], meta_fields=["axis"])
@dataclass(frozen=True)
class Shard:
    """The part of one device of a matrix that is divided among the devices of a mesh along an axis."""

    part: Array
    axis: int


def whole(weight: Array | Shard) -> Array:
    """The whole matrix, gathered from all devices if it is divided among them."""
    if not isinstance(weight, Shard):
        return weight
    return checkpoint_name(lax.all_gather(weight.part, "data", axis=weight.axis, tiled=True), "whole")


def dtype_of(precision: str) -> Any:
    """The NumPy type of a precision: JAX's bfloat16, because MindSpore registers another type under that name."""
    return jnp.dtype(getattr(jnp, precision))


class JaxOperations:
    """Operations whose products compute in `precision`; all sums, norms and weights are float32.

    Parameters
    ----------
    precision
        ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    recompute
        Compute the activations of each layer again for its gradient instead of keeping them.
    """

    def __init__(self, precision: str = "float32", *, recompute: bool = False) -> None:
        self.type = dtype_of(precision)
        self.recompute = recompute
        # Without it, GPUs round the factors of float32 products to 10 bits.
        self.precision = lax.Precision.HIGHEST if precision == "float32" else lax.Precision.DEFAULT

    def linear(self, x: Array, weight: Array) -> Array:
        return self._dot(x, weight, 1)

    def product(self, x: Array, weight: Array) -> Array:
        return self._dot(x, weight, 0)

    def _dot(self, x: Array, weight: Array, axis: int) -> Array:
        # Rows of one axis: on CPUs, XLA has no products of bfloat16 with more axes for a transposed weight.
        rows, weight = x.reshape((-1, x.shape[-1])).astype(self.type), whole(weight).astype(self.type)
        contracted = (((1,), (axis,)), ((), ()))
        product = lax.dot_general(rows, weight, contracted, self.precision, preferred_element_type=jnp.float32)
        return product.reshape((*x.shape[:-1], product.shape[1]))

    def matmul(self, a: Array, b: Array, *, transpose_a: bool = False) -> Array:
        a = a.swapaxes(-1, -2) if transpose_a else a
        return jnp.matmul(a, b, precision=self.precision if self.type == jnp.float32 else lax.Precision.HIGHEST)

    def take(self, x: Array, index: Array) -> Array:
        return x[index]

    def weighted_rows(self, x: Array, index: Array, weight: Array) -> Array:
        heads = (weight.shape[0], weight.shape[2], x.shape[1] // weight.shape[2])

        def one_by_one() -> Array:  # on CPUs, reading rows costs more than adding them up: they are read once
            def add(i: Array, sums: Array) -> Array:
                return sums + weight[:, i, :, None] * x[index[:, i]].reshape(heads)

            return lax.fori_loop(0, index.shape[1], add, jnp.zeros(heads, x.dtype), unroll=4)

        def at_once() -> Array:
            rows = x[index].reshape((*index.shape, *heads[1:]))
            return jnp.einsum("csh,cshk->chk", weight, rows, precision=lax.Precision.HIGHEST)

        return lax.platform_dependent(cpu=one_by_one, default=at_once)

    def pick(self, x: Array, index: Array) -> Array:
        return jnp.take_along_axis(x, index[:, None], 1)[:, 0]

    def segment_sum(self, x: Array, segment: Array, like: Array) -> Array:
        return jax.ops.segment_sum(x, segment, like.shape[0])

    def mean_rows(self, x: Array) -> Array:
        return x.mean(0)

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        return jnp.concatenate(arrays, axis)

    def stack(self, arrays: Sequence[Array], axis: int) -> Array:
        return jnp.stack(arrays, axis)

    def split(self, x: Array, n: int) -> Sequence[Array]:
        return jnp.split(x, n, -1)

    def broadcast_to(self, x: Array, shape: tuple[int, ...]) -> Array:
        return jnp.broadcast_to(x, shape)

    def arange(self, n: int) -> Array:
        return jnp.arange(n, dtype=jnp.int32)

    def eye(self, n: int) -> Array:
        return jnp.eye(n, dtype=jnp.float32)

    def zeros_like(self, x: Array) -> Array:
        return jnp.zeros_like(x)

    def float32(self, x: Array) -> Array:
        return x.astype(jnp.float32)

    abs, exp, log, sign, tanh = (staticmethod(f) for f in (jnp.abs, jnp.exp, jnp.log, jnp.sign, jnp.tanh))
    maximum, minimum, rsqrt = staticmethod(jnp.maximum), staticmethod(jnp.minimum), staticmethod(lax.rsqrt)
    relu, silu, sigmoid = (staticmethod(f) for f in (jax.nn.relu, jax.nn.silu, jax.nn.sigmoid))

    gradient = staticmethod(jax.grad)
    """The gradient of a function of one array that returns a number, for models that only JAX trains."""

    def leaky_relu(self, x: Array, slope: float) -> Array:
        return jax.nn.leaky_relu(x, slope)

    def softmax(self, x: Array) -> Array:
        return jax.nn.softmax(x, -1)

    def logsumexp(self, x: Array) -> Array:
        return jax.nn.logsumexp(x, -1)

    def layer_norm(self, x: Array, gamma: Array, beta: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred * centred).mean(-1, keepdims=True)
        return centred * lax.rsqrt(variance + LAYER_NORM_EPS) * gamma + beta

    def rms_norm(self, x: Array) -> Array:
        return x * lax.rsqrt(jnp.maximum((x * x).mean(-1, keepdims=True), RMS_FLOOR**2))

    def stop_gradient(self, x: Array) -> Array:
        return lax.stop_gradient(x)

    def reverse_gradient(self, x: Array, scale: Array) -> Array:
        return _reversed(x, scale)

    def dropout(self, x: Array, key: Array, threshold: Array | int, scale: Array | float) -> Array:
        d = x.shape[-1]
        rows = _hashed(jnp.arange(x.size // d, dtype=jnp.int32) + key)[:, None]
        columns = _hashed(jnp.arange(d, dtype=jnp.int32) - key)[None]
        both = rows ^ columns
        kept = both * (both + both + 1) >= threshold  # a bijection of int32, which wraps around
        return x * lax.stop_gradient(kept.reshape(x.shape) * jnp.float32(scale))

    def layers(self, layer: Callable[..., Array], x: Array, weights: Any, extras: Sequence[Any]) -> Array:
        one = layer
        if self.recompute:
            one = jax.checkpoint(layer)
        elif any(isinstance(leaf, Shard) for leaf in jax.tree.leaves(weights, is_leaf=lambda x: isinstance(x, Shard))):
            # Divided matrices are gathered again for the gradient, so that the whole ones never all exist at once.
            one = jax.checkpoint(layer, policy=jax.checkpoint_policies.save_anything_except_these_names("whole"))
        if not isinstance(weights, dict):
            if len(weights) < SCANNED_FROM or not _alike(weights):
                for p_layer, extra in zip(weights, extras, strict=True):
                    x = one(x, p_layer, extra)
                return x
            weights = self.stacked(weights)
        extras = _stack(list(extras))
        return lax.scan(lambda x, both: (one(x, *both), None), x, (weights, extras))[0]

    def stacked(self, weights: Sequence[Weights]) -> Any:
        return _stack(list(weights))


def _stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *trees)


def _alike(trees: list[Any]) -> bool:
    return len({jax.tree.structure(tree) for tree in trees}) == 1


@jax.custom_vjp
def _reversed(x: Array, scale: Array) -> Array:
    del scale
    return x


_reversed.defvjp(
    lambda x, scale: (x, scale),
    lambda scale, gradient: (-scale * gradient, jnp.zeros_like(scale)),
)


def _hashed(x: Array) -> Array:
    """A bijection of int32 whose output looks random (multiplications and shifts, as in MurmurHash)."""
    for factor, shift in ((-1640531527, 15), (-2048144789, 13), (-1028477387, 16)):
        x = x * jnp.int32(factor)
        x = x ^ (x >> jnp.int32(shift))
    return x
