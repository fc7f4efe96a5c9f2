"""Simple gated linear unit: a product of two projections in place of the feed-forward network."""

import mindspore as ms
from mindspore import nn

from cellfm.config import ModelConfig
from cellfm.nn._linear import Linear


class SGLU(nn.Cell):
    """``((x Wu) * (x Wv)) Wo`` (paper, Methods, "SGLU")."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.d_model
        self.gate = Linear(d, d)
        self.value = Linear(d, d)
        self.output = Linear(d, d)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.output(self.gate(x) * self.value(x))
