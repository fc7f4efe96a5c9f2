"""The dense layer of the network: no bias, weights of shape (out, in)."""

import mindspore as ms
from mindspore import nn, ops
from mindspore.common.initializer import initializer


class Linear(nn.Cell):
    """``y = x W^T``; all but the last dimension of `x` are kept.

    Weights start at zero: real ones are drawn by `cellfm.model` or come from a file.
    """

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.d_in = d_in
        self.d_out = d_out
        self.weight = ms.Parameter(initializer("zeros", (d_out, d_in), ms.float32))
        self.matmul = ops.MatMul(transpose_b=True)
        self.type = ms.float32

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        flat = x.reshape((-1, self.d_in))  # one large product instead of many small ones
        if self.type != ms.float32:
            product = self.matmul(flat.astype(self.type), self.weight.astype(self.type)).astype(ms.float32)
        else:
            product = self.matmul(flat, self.weight)
        return product.reshape(x.shape[:-1] + (self.d_out,))  # noqa: RUF005 (jit has no *)

    def compute_in(self, kind: ms.Type) -> None:
        """Multiply in another type; the weight and what comes out stay float32."""
        self.type = kind
