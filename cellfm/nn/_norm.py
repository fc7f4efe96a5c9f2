"""Normalisations: LayerNorm as published, and the root mean square over a head."""

import mindspore as ms
from mindspore import nn, ops

LAYER_NORM_EPS = 1e-7
RMS_FLOOR = 1e-12


def layer_norm(d_model: int) -> nn.LayerNorm:
    return nn.LayerNorm([d_model], epsilon=LAYER_NORM_EPS)


def rms_norm(x: ms.Tensor) -> ms.Tensor:
    """Divide by the root mean square over the last axis."""
    mean_square = (x * x).mean(-1, keep_dims=True)
    return x * ops.rsqrt(ops.maximum(mean_square, RMS_FLOOR**2))
