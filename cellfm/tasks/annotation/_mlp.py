"""A small MLP on arrays: the head on embeddings that are there already, fitted in seconds with NumPy.

`cellfm.nn.MLPHead` is the same function in MindSpore, for when the network below learns too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import minimize

from cellfm._progress import progress

PENALTY = 30.0
"""The L2 penalty on weights is this over twice the number of cells: 1 / C of logistic regression."""
N_ITERATIONS = 300
_LEAST_SCALE = 1e-6


def spread_of(x: np.ndarray) -> np.ndarray:
    """(d,) float32: the standard deviation of each dimension of `x` (n, d); 1 where it is constant.

    A gene that no training cell expresses must not outweigh all others in a cell that does.
    """
    spread = x.std(0)
    return np.where(spread > _LEAST_SCALE, spread + _LEAST_SCALE, 1).astype(np.float32)


@dataclass(frozen=True)
class MLP:
    """Standardised input through 1 to 3 dense layers with ReLU between them."""

    mean: np.ndarray
    """(d,) float32: mean of the input over the training cells."""
    scale: np.ndarray
    """(d,) float32: their spread."""
    weights: tuple[np.ndarray, ...]
    """(out, in) float32 of each layer."""
    biases: tuple[np.ndarray, ...]
    """(out,) float32 of each layer."""

    @classmethod
    def start(
        cls, x: np.ndarray, n_classes: int, n_layers: int, random_state: int, *, width: int | None = None
    ) -> "MLP":
        """Standardisation from the input `x` (n, d), random hidden layers (He 2015), and a last layer of zeros.

        Hidden layers have `width` units, by default d.
        """
        generator, d = np.random.default_rng(random_state), x.shape[1]
        sizes = [d, *[width or d] * (n_layers - 1)]
        weights = [
            (generator.standard_normal((n_out, n_in)) * np.sqrt(2 / n_in)).astype(np.float32)
            for n_in, n_out in pairwise(sizes)
        ]
        weights.append(np.zeros((n_classes, sizes[-1]), np.float32))
        return cls(x.mean(0), spread_of(x), tuple(weights), tuple(np.zeros(len(w), np.float32) for w in weights))

    def standardise(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) / self.scale

    def logits(self, x: np.ndarray) -> np.ndarray:
        """(n, d) to (n, n_classes) float32."""
        return _layers(self, self.standardise(x))[-1]


@dataclass(frozen=True)
class LabelledCells:
    """Embeddings to learn from, or to judge by."""

    x: np.ndarray
    """(n, d) float32."""
    kind: np.ndarray
    """(n,) int: number of the class."""
    weight: np.ndarray
    """(n,) float32: how much a cell counts."""

    def loss(self, mlp: MLP) -> float:
        """The weighted mean of ``-log p(kind)``."""
        return weighted_loss(mlp.logits(self.x), self.kind, self.weight)


def fit_mlp(
    start: MLP, cells: LabelledCells, *, n_iterations: int = N_ITERATIONS, validation: LabelledCells | None = None
) -> tuple[MLP, list[tuple[int, float, float]]]:
    """The MLP with the least weighted cross-entropy and L2 penalty, found by L-BFGS from `start`.

    It runs until it has converged: the penalty keeps it from learning by heart. Stopping where the validation loss is
    least, as the heads on a network that learns do, gave up to a point less accuracy.

    Returns
    -------
    The MLP, and by iteration: number, training loss with penalty, validation loss (NaN without validation cells).
    """
    inputs, share = start.standardise(cells.x), (cells.weight / cells.weight.sum()).astype(np.float32)
    penalty = PENALTY / len(inputs)
    history: list[tuple[int, float, float]] = []
    last = [0.0]

    def of(flat: np.ndarray) -> tuple[float, np.ndarray]:
        mlp = _unflatten(flat, start)
        loss, gradients = _gradients(mlp, inputs, cells.kind, share)
        for i, weight in enumerate(mlp.weights):
            loss += penalty / 2 * float((weight * weight).sum())
            gradients[i] = gradients[i] + penalty * weight
        last[0] = loss
        return loss, _flatten(gradients)

    with progress(n_iterations, "fitting the head", "iterations") as bar:

        def note(flat: np.ndarray) -> None:
            judged = validation.loss(_unflatten(flat, start)) if validation is not None else np.nan
            history.append((len(history) + 1, last[0], judged))
            bar.update()

        found = minimize(
            of,
            _flatten([*start.weights, *start.biases]),
            jac=True,
            method="L-BFGS-B",
            callback=note,
            options={"maxiter": n_iterations, "gtol": 1e-4},
        )
    return _unflatten(found.x, start), history


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, (n, n_classes)."""
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def weighted_loss(logits: np.ndarray, kind: np.ndarray, weight: np.ndarray | None = None) -> float:
    """The weighted mean of ``-log p(kind)``."""
    logits = logits - logits.max(1, keepdims=True)
    loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(kind)), kind]
    return float(np.average(loss, weights=weight))


def _layers(mlp: MLP, x: np.ndarray) -> list[np.ndarray]:
    """What each layer gets, and at the end the logits; `x` is standardised."""
    found = [x]
    for weight, bias in zip(mlp.weights[:-1], mlp.biases[:-1], strict=True):
        found.append(np.maximum(found[-1] @ weight.T + bias, 0))
    return [*found, found[-1] @ mlp.weights[-1].T + mlp.biases[-1]]


def _gradients(mlp: MLP, x: np.ndarray, kind: np.ndarray, share: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """The loss, in which each cell has its `share`, and its gradients: of all weights, then of all biases."""
    *inputs, logits = _layers(mlp, x)
    loss = weighted_loss(logits, kind, share)
    slope = softmax(logits)  # becomes the gradient of the logits
    slope[np.arange(len(kind)), kind] -= 1
    slope *= share[:, None]
    of_weights: list[np.ndarray] = []
    of_biases: list[np.ndarray] = []
    for i in reversed(range(len(mlp.weights))):
        of_weights.insert(0, slope.T @ inputs[i])
        of_biases.insert(0, slope.sum(0))
        slope = (slope @ mlp.weights[i]) * (inputs[i] > 0) if i else slope
    return loss, of_weights + of_biases


def _flatten(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays]).astype(np.float64)


def _unflatten(flat: np.ndarray, like: MLP) -> MLP:
    shapes = [array.shape for array in (*like.weights, *like.biases)]
    ends = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])
    arrays = [
        flat[start:end].reshape(shape).astype(np.float32)
        for start, end, shape in zip(ends[:-1], ends[1:], shapes, strict=True)
    ]
    n = len(like.weights)
    return MLP(like.mean, like.scale, tuple(arrays[:n]), tuple(arrays[n:]))
