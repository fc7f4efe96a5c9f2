"""Dropout that follows from a key: what a step drops does not depend on the steps before it."""

from itertools import count

import mindspore as ms
import numpy as np
from mindspore import nn, ops

_NUMBER = count()


class Dropout(nn.Cell):
    """Drop elements at a rate, in training; which ones is hashed from a key and their place.

    `nn.Dropout` keeps a state that can be neither saved nor set: a run that goes on from a checkpoint would drop other
    elements than one that was not interrupted.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.least = int((rate - 0.5) * 2**32)  # the lowest hash that is kept
        self.scale = 1 / (1 - rate)
        # Set past `Cell`, which would take it for a weight of the network.
        self.__dict__["key"] = ms.Parameter(
            ms.Tensor(0, ms.int32), name=f"dropout.{next(_NUMBER)}", requires_grad=False
        )

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        if not self.training or self.rate == 0:
            return x
        d = x.shape[-1]
        rows = mix(ops.arange(x.size // d).astype(ms.int32) + self.key)
        columns = mix(ops.arange(d).astype(ms.int32) - self.key)
        both = ops.bitwise_xor(rows.reshape((-1, 1)), columns.reshape((1, -1)))
        kept = (both * (both + both + 1) >= self.least).astype(ms.float32).reshape(x.shape)  # a bijection, wraps around
        return x * ops.stop_gradient(kept * self.scale)


def mix(x: ms.Tensor) -> ms.Tensor:
    """A bijection of int32 whose output looks random (multiplications and shifts, as in MurmurHash)."""
    for factor, shift in ((-1640531527, 15), (-2048144789, 13), (-1028477387, 16)):
        x = x * factor
        x = ops.bitwise_xor(x, ops.bitwise_right_shift(x, ms.Tensor(shift, ms.int32)))
    return x


def dropouts(cell: nn.Cell) -> list[Dropout]:
    """The parts of a Cell that drop anything."""
    return [part for _, part in cell.cells_and_names() if isinstance(part, Dropout) and part.rate]


def draw_dropout(parts: list[Dropout], seed: tuple[int, ...]) -> None:
    """Choose what is dropped next, by a seed."""
    keys = np.random.default_rng(seed).integers(-(2**31), 2**31, len(parts), dtype=np.int32)
    for part, key in zip(parts, keys, strict=True):
        ops.assign(part.key, ms.Tensor(key))  # compiled functions do not see what set_data does
