"""The network that predicts what a perturbation changes: genes, perturbations and two graphs (GEARS, Roohani 2023)."""

from itertools import pairwise

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from cellfm.nn._heads import Dense
from cellfm.nn._linear import Linear

MOMENTUM = 0.1
"""How fast the statistics that prediction normalises by follow those of the batches."""
EPSILON = 1e-5
LEAST_VARIANCE = 1e-4
"""Where the variance of genes that hardly vary starts."""
HOP_SHARE = 0.2
"""What a gene's neighbours add to it."""


class BatchNorm(nn.Cell):
    """Batch normalisation of rows; in training by the batch, in use by what was seen in training."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.gamma = ms.Parameter(ms.Tensor(np.ones(d, np.float32)))
        self.beta = ms.Parameter(ms.Tensor(np.zeros(d, np.float32)))
        self.mean = ms.Parameter(ms.Tensor(np.zeros(d, np.float32)), requires_grad=False)
        self.variance = ms.Parameter(ms.Tensor(np.ones(d, np.float32)), requires_grad=False)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """(n, d) to (n, d)."""
        if self.training:
            # Products with a row of ones: reductions over rows are far slower on CPU.
            n = x.shape[0]
            ones = ops.ones((1, n), ms.float32) / n
            mean = ops.matmul(ones, x).reshape((-1,))
            centred = x - mean
            variance = ops.matmul(ones, centred * centred).reshape((-1,))
            self._follow(self.mean, mean)
            self._follow(self.variance, variance)
        else:
            mean, variance = self.mean, self.variance
        scale = self.gamma * ops.rsqrt(variance + EPSILON)
        return x * scale + (self.beta - mean * scale)

    def _follow(self, kept: ms.Parameter, new: ms.Tensor) -> None:
        ops.assign(kept, (1 - MOMENTUM) * kept + MOMENTUM * ops.stop_gradient(new))


class NormedMLP(nn.Cell):
    """Dense layers, each followed by batch normalisation, with ReLU between."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.layers = nn.CellList([Linear(a, b) for a, b in pairwise(sizes)])
        self.norms = nn.CellList([BatchNorm(size) for size in sizes[1:]])

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """(n, first) to (n, last)."""
        for i in range(len(self.layers)):
            x = self.norms[i](self.layers[i](ops.relu(x) if i else x))
        return x


class Projection(nn.Cell):
    """Given vectors to the width of the network, by two dense layers."""

    def __init__(self, d_in: int, width: int) -> None:
        super().__init__()
        self.inner = Dense(d_in, 2 * width)
        self.outer = Dense(2 * width, width)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.outer(ops.relu(self.inner(x)))


class Table(nn.Cell):
    """Vectors of things: projected from given ones, or learnt."""

    def __init__(self, n: int, width: int, given: np.ndarray | None) -> None:
        super().__init__()
        self.learnt = given is None
        if given is None:
            self.rows = ms.Parameter(ms.Tensor(np.zeros((n, width), np.float32)))
        else:
            self.given = ms.Tensor(given.astype(np.float32))
            self.projection = Projection(given.shape[1], width)

    def construct(self) -> ms.Tensor:
        """(n, width)."""
        return self.rows.value() if self.learnt else self.projection(self.given)


class Neighbours(nn.Cell):
    """One hop on a graph: the weighted mean over neighbours, (n, k) of them, then a dense layer."""

    def __init__(self, neighbours: np.ndarray, weights: np.ndarray, width: int) -> None:
        super().__init__()
        self.neighbours = ms.Tensor(neighbours.astype(np.int32))
        self.weights = ms.Tensor(weights.astype(np.float32)[..., None])
        self.linear = Dense(width, width)

    def construct(self, x: ms.Tensor, chosen: ms.Tensor) -> ms.Tensor:
        """`x` (n, width), rows to compute (...,) to (..., width)."""
        near, weights = self.neighbours[chosen], self.weights[chosen]  # (..., k), (..., k, 1)
        return self.linear((x[near] * weights).sum(-2))


class PerturbationNetwork(nn.Cell):
    """The change of every gene when one or two genes are perturbed.

    Parameters
    ----------
    coexpression
        Neighbours and weights of the measured genes, (n_genes, k) each.
    relations
        The same of the genes that can be perturbed, (n_perturbable, k).
    genes, perturbations
        Given vectors of the two, (n, d); None learns them.
    width
        Of the layers.
    uncertainty
        Predict also the logarithm of each change's variance.
    """

    def __init__(
        self,
        coexpression: tuple[np.ndarray, np.ndarray],
        relations: tuple[np.ndarray, np.ndarray],
        *,
        genes: np.ndarray | None = None,
        perturbations: np.ndarray | None = None,
        width: int = 64,
        uncertainty: bool = False,
    ) -> None:
        super().__init__()
        n_genes, self.width, self.uncertainty = len(coexpression[0]), width, uncertainty
        self.n_genes = n_genes
        self.all_genes = ms.Tensor(np.arange(n_genes, dtype=np.int32))
        self.genes = Table(n_genes, width, genes)
        self.gene_norm = BatchNorm(width)
        self.gene_hop = Neighbours(*coexpression, width)
        self.gene_mlp = NormedMLP(width, width, width)
        self.perturbations = Table(len(relations[0]), width, perturbations)
        self.perturbation_hop = Neighbours(*relations, width)
        self.perturbation_mlp = NormedMLP(width, width, width)
        self.joint_norm = BatchNorm(width)
        self.joint_mlp = NormedMLP(width, 2 * width, width)
        self.read = _zeros(n_genes, width)
        self.read_bias = _zeros(n_genes)
        self.cross_mlp = NormedMLP(n_genes, width, width)
        self.own = _zeros(n_genes)
        self.cross = Dense(width, n_genes)
        if uncertainty:
            self.read_variance = _zeros(n_genes, width)
            self.variance_bias = _zeros(n_genes)

    def construct(self, perturbed: ms.Tensor, present: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """Perturbed genes (s, 2) and 1 where there is one (s, 2), to changes and log variances, (s, n_genes) each.

        Without an uncertainty head the log variances are 0.
        """
        s = perturbed.shape[0]
        x = ops.relu(self.gene_norm(self.genes()))  # (g, w)
        x = self.gene_mlp(x + HOP_SHARE * self.gene_hop(x, self.all_genes))
        p = self.perturbation_hop(self.perturbations(), perturbed)  # (s, 2, w)
        p = self.perturbation_mlp((p * present.expand_dims(-1)).sum(1))  # (s, w)
        both = (x.expand_dims(0) + p.expand_dims(1)).reshape((-1, self.width))  # (s g, w)
        both = self.joint_mlp(ops.relu(self.joint_norm(both))).reshape((s, self.n_genes, self.width))
        own = (both * self.read).sum(-1) + self.read_bias  # (s, g)
        change = own * (1 + self.own) + self.cross(self.cross_mlp(own))
        if self.uncertainty:
            return change, (both * self.read_variance).sum(-1) + self.variance_bias
        return change, ops.zeros_like(change)


def silence(network: PerturbationNetwork) -> None:
    """Let a drawn network predict no change at all, so that it learns from there."""
    for parameter in (network.read, network.own, network.cross.linear.weight):
        parameter.set_data(ms.Tensor(np.zeros(parameter.shape, np.float32)))


def set_spread(network: PerturbationNetwork, variance: np.ndarray) -> None:
    """Let the uncertainty head say one variance (n_genes,) for all perturbations, so that it learns from there."""
    network.read_variance.set_data(ms.Tensor(np.zeros(network.read_variance.shape, np.float32)))
    network.variance_bias.set_data(ms.Tensor(np.log(np.maximum(variance, LEAST_VARIANCE)).astype(np.float32)))


def _zeros(*shape: int) -> ms.Parameter:
    return ms.Parameter(ms.Tensor(np.zeros(shape, np.float32)))
