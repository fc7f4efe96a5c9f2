"""Gradient reversal: nothing on the way forward, the opposite gradient on the way back (Ganin 2016, eq. 1)."""

import mindspore as ms
from mindspore import nn, ops


class GradientReversal(nn.Cell):
    """The identity, whose gradient is ``-scale`` times that of the output.

    What comes after learns to tell things apart, and what comes before learns to hide them.
    """

    def construct(self, x: ms.Tensor, scale: ms.Tensor) -> ms.Tensor:
        """`x` (b, d); `scale` () or (b, 1) is a Tensor, so that it may change from step to step."""
        return x

    def bprop(self, x: ms.Tensor, scale: ms.Tensor, out: ms.Tensor, dout: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """Gradients of the inputs."""
        return -scale * dout, ops.zeros_like(scale)
