"""The protocol of operations in which the network and its losses are written; every engine implements it.

`cellfm.nn` is pure functions over such a namespace, `xp`. Arrays also have `+ - * / ** @ < > ==`, indexing, `.reshape`,
`.swapaxes`, `.T`, `.shape`, `.size` and `.sum(axis, keepdims=)` as in NumPy, in every engine.

MindSpore parses the source of these functions: they keep to tuples, lists and dicts, calls, conditions that do not
depend on arrays, and `for` over lists and ranges (no named tuples, no comprehensions with conditions).
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

Array = Any
"""An array of the engine at hand."""
Weights = dict[str, Any]
"""Arrays by name, nested: the parts of a network are dicts, its layers a list of dicts."""


class Operations(Protocol):
    """Operations that an engine provides for the functions of `cellfm.nn`."""

    # products: the only operations that compute in another precision than float32
    def linear(self, x: Array, weight: Array) -> Array:
        """``x W^T``: (..., in) and (out, in) to (..., out)."""

    def product(self, x: Array, weight: Array) -> Array:
        """``x W``: (..., in) and (in, out) to (..., out)."""

    def matmul(self, a: Array, b: Array, *, transpose_a: bool = False) -> Array:
        """Products of batches of matrices; with `transpose_a` ``a^T b``."""

    # places
    def take(self, x: Array, index: Array) -> Array:
        """Rows of `x`: (n, ...) and int32 (...) to (..., ...)."""

    def weighted_rows(self, x: Array, index: Array, weight: Array) -> Array:
        """Sums of rows of `x`, each head with its own weights: (n, h k), int32 (c, s) and (c, s, h) to (c, h, k)."""

    def pick(self, x: Array, index: Array) -> Array:
        """One entry of each row: (n, m) and int32 (n,) to (n,)."""

    def segment_sum(self, x: Array, segment: Array, like: Array) -> Array:
        """Sums of the rows of each segment, as many as `like` has rows: (c, ...) and int32 (c,) to (n, ...)."""

    def mean_rows(self, x: Array) -> Array:
        """(n, d) to (d,)."""

    def concat(self, arrays: Sequence[Array], axis: int) -> Array: ...
    def stack(self, arrays: Sequence[Array], axis: int) -> Array: ...
    def split(self, x: Array, n: int) -> Sequence[Array]:
        """The last axis in `n` equal parts."""

    def broadcast_to(self, x: Array, shape: tuple[int, ...]) -> Array: ...
    def arange(self, n: int) -> Array:
        """int32."""

    def eye(self, n: int) -> Array: ...
    def zeros_like(self, x: Array) -> Array: ...
    def float32(self, x: Array) -> Array:
        """The same numbers as float32; True is 1."""

    # element by element
    def abs(self, x: Array) -> Array: ...
    def exp(self, x: Array) -> Array: ...
    def log(self, x: Array) -> Array: ...
    def maximum(self, a: Array, b: Array | float) -> Array: ...
    def minimum(self, a: Array, b: Array | float) -> Array: ...
    def rsqrt(self, x: Array) -> Array: ...
    def sign(self, x: Array) -> Array: ...
    def tanh(self, x: Array) -> Array: ...
    def relu(self, x: Array) -> Array: ...
    def leaky_relu(self, x: Array, slope: float) -> Array: ...
    def silu(self, x: Array) -> Array: ...
    def sigmoid(self, x: Array) -> Array: ...

    # over the last axis
    def softmax(self, x: Array) -> Array: ...
    def logsumexp(self, x: Array) -> Array: ...
    def layer_norm(self, x: Array, gamma: Array, beta: Array) -> Array:
        """``gamma (x - mean) / sqrt(variance + 1e-7) + beta``."""

    def rms_norm(self, x: Array) -> Array:
        """`x` over its root mean square, which is at least 1e-12."""

    # gradients
    def stop_gradient(self, x: Array) -> Array: ...
    def reverse_gradient(self, x: Array, scale: Array) -> Array:
        """`x`, whose gradient is ``-scale`` times that of the output (Ganin 2016, eq. 1)."""

    def dropout(self, x: Array, key: Array, threshold: Array | int, scale: Array | float) -> Array:
        """Elements are kept, times `scale`, whose hash, of `key` (int32) and their place, is `threshold` or more.

        The hash is a number of int32, any as probable as the other, and the same in every engine.
        """

    def layers(self, layer: Callable[..., Array], x: Array, weights: Any, extras: Sequence[Any]) -> Array:
        """``x = layer(x, weights[i], extras[i])`` for each layer in turn.

        An engine may compile the layer once (`stacked` prepares its weights), and compute it again for its gradient.
        """

    def stacked(self, weights: Sequence[Weights]) -> Any:
        """Weights of like layers in the form that `layers` runs fastest."""


LAYER_NORM_EPS = 1e-7
RMS_FLOOR = 1e-12
