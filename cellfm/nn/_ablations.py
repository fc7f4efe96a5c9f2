"""What the paper takes out of RetNet, to be put back for comparison (paper, Results, "ERetNet"; Fig. S21)."""

import math

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from cellfm.config import ModelConfig
from cellfm.nn._layout import Layout
from cellfm.nn._linear import Linear
from cellfm.nn._retention import GatedRetention


class FeedForward(nn.Cell):
    """``W2 silu(W1 x)`` with an inner width that makes it as large as the SGLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.inner = Linear(config.d_model, config.d_inner)
        self.output = Linear(config.d_inner, config.d_model)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.output(ops.silu(self.inner(x)))


class DecayRetention(GatedRetention):
    """RetNet's parallel form: ``(Q K^T * D) V``, where `D` fades with the distance of two tokens in the sequence.

    The genes of a cell have no order of their own, so the order of their ids stands in for it, and they are read in
    both directions. Needs the quadratic table of all pairs, hence all tokens of a cell in one chunk.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        rates = [1 - 2.0 ** (-5 - head) for head in range(config.n_heads)]
        self.log_rate = ms.Tensor(np.array([math.log(rate) for rate in rates], np.float32).reshape((1, -1, 1, 1)))

    def construct(self, x: ms.Tensor, key_mask: ms.Tensor, value_scale: ms.Tensor, layout: Layout) -> ms.Tensor:
        q = self.split_heads(ops.relu(self.query(x)) * self.scale)  # (c, h, s, k)
        k = self.split_heads(ops.relu(self.key(x)) * key_mask * self.scale)
        v = self.split_heads(self.value(x) * value_scale)
        place = ops.arange(x.shape[1]).astype(ms.float32)
        distance = ops.abs(place.expand_dims(0) - place.expand_dims(1))  # (s, s)
        pairs = ops.matmul(q, k.swapaxes(2, 3)) * ops.exp(self.log_rate * distance)  # (c, h, s, s)
        found = self.norm(ops.matmul(pairs, v))
        return self.output(self.join_heads(found) * ops.silu(self.gate(x)))
