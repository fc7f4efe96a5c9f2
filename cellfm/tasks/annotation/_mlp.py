"""A small MLP on arrays: the head on precomputed embeddings, fitted in seconds.

`cellfm.nn.heads.mlp_head` is the same function for training together with the network.
"""

import math
import warnings
from dataclasses import dataclass, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from cellfm.engines import fit

PENALTY = 30.0
"""The L2 penalty on weights is this divided by twice the number of cells: 1 / C of logistic regression."""
N_ITERATIONS = 300
LEARNING_RATE = 2e-2
"""Learning rate of heads with hidden layers; it falls to 0 along a cosine."""
PAD = 128
"""Cells are padded to multiples of this, so that fits of similar size share compiled code."""
_MIN_SCALE = 1e-6


def spread_of(x: np.ndarray) -> np.ndarray:
    """(d,) float32: the standard deviation of each dimension of `x` (n, d); 1 where it is constant.

    A gene that no training cell expresses must not outweigh all others in a cell that does.
    """
    spread = x.std(0)
    return np.where(spread > _MIN_SCALE, spread + _MIN_SCALE, 1).astype(np.float32)


@dataclass(frozen=True)
class MLP:
    """Standardised input through 1 to 3 dense layers with ReLU between them."""

    mean: np.ndarray
    """(d,) float32: mean of the input over the training cells."""
    scale: np.ndarray
    """(d,) float32: standard deviation of the input over the training cells."""
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
        h = self.standardise(x)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            h = np.maximum(h @ weight.T + bias, 0)
        return h @ self.weights[-1].T + self.biases[-1]


@dataclass(frozen=True)
class LabelledCells:
    """Embeddings for training or validation."""

    x: np.ndarray
    """(n, d) float32."""
    label: np.ndarray
    """(n,) int: number of the class."""
    weight: np.ndarray
    """(n,) float32: weight of a cell; 0 leaves it out."""

    def loss(self, mlp: MLP) -> float:
        """The weighted mean of ``-log p(label)``."""
        return weighted_loss(mlp.logits(self.x), self.label, self.weight)


def fit_mlp(
    start: MLP, cells: LabelledCells, *, n_iterations: int = N_ITERATIONS, validation: LabelledCells | None = None
) -> tuple[MLP, pd.DataFrame]:
    """Minimise the weighted cross-entropy of an MLP with an L2 penalty.

    One layer is logistic regression; more start from `start` and take steps on all cells at once. The penalty keeps
    them from learning by heart. Stopping where the validation loss is least, as the heads on a network that learns do,
    gave up to a point less accuracy.

    Returns
    -------
    The MLP, and a row for the start and every 50 steps (for one layer the last alone): ``step``, ``loss`` with penalty,
    and ``validation_loss``, NaN without validation cells.
    """
    counted = cells.weight > 0
    used = LabelledCells(cells.x[counted], cells.label[counted], cells.weight[counted])
    if len(start.weights) > 1:
        return _fit_layers(start, cells, PENALTY / len(used.x), n_iterations, validation)
    mlp, n_iterations = _fit_linear(start, used, n_iterations)
    loss = used.loss(mlp) + PENALTY / len(used.x) / 2 * float((mlp.weights[0] ** 2).sum())
    row = {"step": n_iterations, "loss": loss, "validation_loss": validation.loss(mlp) if validation else np.nan}
    return mlp, pd.DataFrame([row])


def _fit_linear(start: MLP, cells: LabelledCells, n_iterations: int) -> tuple[MLP, int]:
    x = start.standardise(cells.x)
    weight, bias, n_iterations = logistic_layer(x, cells.label, cells.weight, PENALTY, n_iterations)
    return replace(start, weights=(weight,), biases=(bias,)), n_iterations


def logistic_layer(
    x: Any, label: np.ndarray, weight: np.ndarray, penalty: float, n_iterations: int = N_ITERATIONS
) -> tuple[np.ndarray, np.ndarray, int]:
    """Logistic regression with an L2 penalty as a layer of a head.

    Parameters
    ----------
    x
        (n, d): dense or sparse.
    label
        (n,) int: number of the class, each of which occurs.
    weight
        (n,) float32: weight of each cell.

    Returns
    -------
    (n_classes, d) weights, (n_classes,) biases, and the number of iterations.
    """
    n_classes = len(np.unique(label))
    # Of two classes scikit-learn learns the difference w of both rows; -w/2 and w/2 have half the penalty of w.
    strength = (2 if n_classes == 2 else 1) / penalty
    model = LogisticRegression(C=strength, max_iter=n_iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, label, weight * len(label) / weight.sum())
    w, b = (array.astype(np.float32) for array in (model.coef_, model.intercept_))
    if n_classes == 2:
        w, b = np.concatenate((-w, w)) / 2, np.concatenate((-b, b)) / 2
    return w, b, int(model.n_iter_.max())


def _fit_layers(
    start: MLP, cells: LabelledCells, penalty: float, n_iterations: int, validation: LabelledCells | None
) -> tuple[MLP, pd.DataFrame]:
    n_more = -len(cells.x) % PAD

    def of(arrays: dict[str, Any]) -> MLP:
        weights, biases = (tuple(map(np.asarray, arrays[name])) for name in ("weights", "biases"))
        return replace(start, weights=weights, biases=biases)

    arrays, rows = fit(
        _loss,
        {"weights": start.weights, "biases": start.biases},
        lambda step: (),
        data=(
            np.pad(start.standardise(cells.x), ((0, n_more), (0, 0))),
            np.pad(cells.label, (0, n_more)),
            np.pad(cells.weight / cells.weight.sum(), (0, n_more)).astype(np.float32),
            np.float32(penalty),
        ),
        steps=n_iterations,
        learning_rate=lambda step: LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / n_iterations)),
        validate=None if validation is None else lambda arrays: validation.loss(of(arrays)),
        label="fitting the head",
    )
    history = pd.DataFrame(rows).rename(columns={"validation": "validation_loss"})
    return of(arrays), history


def _loss(xp: SimpleNamespace, arrays: dict[str, Any], x: Any, label: Any, share: Any, penalty: Any) -> Any:
    """Cross-entropy, in which each cell has its `share`, with the penalty on weights."""
    h = x
    for i, (weight, bias) in enumerate(zip(arrays["weights"], arrays["biases"], strict=True)):
        h = (xp.relu(h) if i else h) @ weight.T + bias
    entropy = ((xp.logsumexp(h) - xp.pick(h, label)) * share).sum()
    return entropy + penalty / 2 * sum((weight**2).sum() for weight in arrays["weights"])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, (n, n_classes)."""
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def weighted_loss(logits: np.ndarray, label: np.ndarray, weight: np.ndarray | None = None) -> float:
    """The weighted mean of ``-log p(label)``."""
    logits = logits - logits.max(1, keepdims=True)
    loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(label)), label]
    return float(np.average(loss, weights=weight))
