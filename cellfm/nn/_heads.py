"""Heads that tell cell types: a small MLP on CLS, and learned class queries over the gene tokens."""

import dataclasses

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from cellfm.config import ModelConfig
from cellfm.nn._dropout import Dropout
from cellfm.nn._eretnet import ERetNetLayer, value_scale
from cellfm.nn._layout import Layout, is_gene
from cellfm.nn._linear import Linear

N_CROSS_LAYERS = 2
"""Cross-retention layers of a `QueryHead`."""


class Dense(nn.Cell):
    """A dense layer with a bias, which the network itself has none of."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.linear = Linear(d_in, d_out)
        self.bias = ms.Parameter(ms.Tensor(np.zeros(d_out, np.float32)))

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.linear(x) + self.bias


class MLPHead(nn.Cell):
    """Logits of classes from CLS: standardised, then 1 to 3 dense layers with ReLU between them (Zeng 2025).

    Parameters
    ----------
    mean, scale
        (d,) mean and spread of CLS over the training cells: facts of the data, which are not trained.
    """

    def __init__(
        self, mean: np.ndarray, scale: np.ndarray, n_classes: int, *, n_layers: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        d = len(mean)
        self.mean = ms.Tensor(mean.astype(np.float32))
        self.one_by_scale = ms.Tensor((1 / scale).astype(np.float32))
        self.hidden = nn.CellList([Dense(d, d) for _ in range(n_layers - 1)])
        self.output = Dense(d, n_classes)
        self.dropout = Dropout(dropout)

    def construct(self, cell: ms.Tensor) -> ms.Tensor:
        """(b, d) to (b, n_classes)."""
        x = (cell - self.mean) * self.one_by_scale
        for layer in self.hidden:
            x = self.dropout(ops.relu(layer(x)))
        return self.output(x)


class QueryHead(nn.Cell):
    """Logits of classes from the tokens of a cell.

    Learned class vectors and CLS are the queries of two cross-retention layers, which read the gene tokens. Each
    class is judged twice: by a projection of what its query found, and by the product of its vector with what CLS
    found.
    """

    def __init__(self, config: ModelConfig, n_classes: int) -> None:
        super().__init__()
        d = config.d_model
        cross = dataclasses.replace(
            config, n_layers=N_CROSS_LAYERS, feed_forward="sglu", norm="deepnorm", retention="linear"
        )
        self.n_classes = n_classes
        self.scale = d**-0.5
        self.classes = ms.Parameter(ms.Tensor(np.zeros((n_classes, d), np.float32)))
        self.layers = nn.CellList([ERetNetLayer(cross, 0.0) for _ in range(N_CROSS_LAYERS)])
        self.output = Dense(d, 1)

    def construct(self, cell: ms.Tensor, tokens: ms.Tensor, layout: Layout) -> tuple[ms.Tensor, ms.Tensor]:
        """CLS (b, d) and all tokens (c, s, d) to two logits, each (b, n_classes)."""
        b, d = cell.shape
        n = self.n_classes
        queries = ops.broadcast_to(self.classes.expand_dims(0), (b, n, d))
        x = ops.concat((queries, cell.expand_dims(1)), 1)  # (b, n + 1, d)
        keys, scale = is_gene(layout).expand_dims(-1), value_scale(layout)
        for layer in self.layers:
            memory = layer.attention.remember(tokens, keys, scale, layout)  # (b, h, k, k)
            x = layer.add(x, layer.attention.read(x, memory))
        of_queries = self.output(x[:, :n]).squeeze(-1)  # (b, n)
        of_cls = ops.matmul(x[:, n], self.classes.T) * self.scale  # (b, n)
        return of_queries, of_cls


def draw_head(head: nn.Cell, *, random_state: int = 0) -> None:
    """Draw the initial weights of a head, in place: Xavier normal; vectors start as they were made.

    The last layer of an `MLPHead` starts at zero: every class is equally probable.
    """
    generator = np.random.default_rng(random_state)
    for name, parameter in head.parameters_and_names():
        if parameter.ndim < 2 or (isinstance(head, MLPHead) and name == "output.linear.weight"):
            continue
        std = np.sqrt(2 / sum(parameter.shape))
        parameter.set_data(ms.Tensor((generator.standard_normal(parameter.shape) * std).astype(np.float32)))


def head_weights(head: nn.Cell) -> dict[str, np.ndarray]:
    """Arrays by parameter name."""
    return {name: parameter.asnumpy().copy() for name, parameter in head.parameters_and_names()}


def set_head(head: nn.Cell, weights: dict[str, np.ndarray]) -> None:
    """Give a head the weights that `head_weights` told."""
    for name, parameter in head.parameters_and_names():
        parameter.set_data(ms.Tensor(weights[name]))
