"""Low-rank adapters (LoRA), wrapped around a network from outside (paper, Methods, "LoRA")."""

import mindspore as ms
import numpy as np
from mindspore import nn

from cellfm.nn._linear import Linear
from cellfm.nn._network import CellFMNetwork


class LoRALinear(nn.Cell):
    """``W x + B (A x)``; `A` normal, `B` zero at the start, so that nothing changes before training."""

    def __init__(self, linear: Linear, rank: int, generator: np.random.Generator) -> None:
        super().__init__()
        self.base = linear
        self.a = Linear(linear.d_in, rank)
        self.b = Linear(rank, linear.d_out)
        start = generator.standard_normal((rank, linear.d_in)) / np.sqrt(linear.d_in)
        self.a.weight = ms.Parameter(ms.Tensor(start.astype(np.float32)))

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.base(x) + self.b(self.a(x))

    def merged(self) -> Linear:
        """One layer with the same output."""
        merged = Linear(self.base.d_in, self.base.d_out)
        weight = self.base.weight.asnumpy() + self.b.weight.asnumpy() @ self.a.weight.asnumpy()
        merged.weight = ms.Parameter(ms.Tensor(weight))
        return merged


def add_lora(network: CellFMNetwork, rank: int, *, random_state: int = 0, last_layers: int | None = None) -> None:
    """Put an adapter around every projection of attention and SGLU, in place; of the `last_layers` alone if given."""
    generator = np.random.default_rng(random_state)
    for sublayer, name in _projections(network, last_layers):
        setattr(sublayer, name, LoRALinear(getattr(sublayer, name), rank, generator))


def merge_lora(network: CellFMNetwork) -> None:
    """Add every adapter to the weights it adapts, in place: the same output, the plain network again."""
    for sublayer, name in _projections(network):
        layer = getattr(sublayer, name)
        setattr(sublayer, name, layer.merged() if isinstance(layer, LoRALinear) else layer)


def _projections(network: CellFMNetwork, last_layers: int | None = None) -> list[tuple[nn.Cell, str]]:
    """Where the projections are: each is an attribute of a sublayer."""
    layers = list(network.backbone.layers)
    return [
        (sublayer, name)
        for layer in (layers if last_layers is None else layers[-last_layers:])
        for sublayer in (layer.attention, layer.glu)
        for name, cell in sublayer.name_cells().items()
        if isinstance(cell, Linear | LoRALinear)
    ]
