"""The paper's classifiers of genes, small networks without bias; those of all folds are trained side by side in NumPy.

A fold has its own weights and its own genes; products over all folds are one batched matrix product. Two forms (Zeng
2025, "Gene function prediction"): for two classes d -> d/2 -> d/4 -> 1 with dropout, for many labels a layer norm and
d -> 1028 -> 512 -> 256 -> k.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Hidden = tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """How the networks are trained."""

    hidden: Hidden
    dropout: float = 0.15
    layer_norm: bool = False
    learning_rate: float = 1e-4
    n_epochs: int = 200
    batch_size: int = 32
    patience: int = 20
    """Epochs without a lower validation loss after which the weights of a fold are no longer taken."""


def binary_recipe(d: int, **options: float) -> Recipe:
    """For two classes."""
    return Recipe((max(2, d // 2), max(2, d // 4)), **options)


def multilabel_recipe(**options: float) -> Recipe:
    """For many labels."""
    return Recipe((1028, 512, 256), layer_norm=True, dropout=0.0, batch_size=128, **options)


def train_folds(
    x: np.ndarray,
    y: np.ndarray,
    train: list[np.ndarray],
    validation: list[np.ndarray],
    recipe: Recipe,
    random_state: int = 0,
) -> list[np.ndarray]:
    """Train one network a fold; each keeps the weights of its least validation loss.

    Parameters
    ----------
    x
        (n_folds, n_genes, d) float32: features, standardised for each fold on its own training genes.
    y
        (n_genes, k) float32, 0 or 1.
    train, validation
        Genes of each fold, by number.

    Returns
    -------
    Weights by layer, (n_folds, in, out).
    """
    n_folds, k = len(train), y.shape[1]
    generators = [np.random.default_rng((random_state, fold)) for fold in range(n_folds)]
    weights = [
        np.stack([g.standard_normal((a, b)) * np.sqrt(2 / (a + b)) for g in generators]).astype(np.float32)
        for a, b in pairwise((x.shape[2], *recipe.hidden, k))
    ]
    first, second = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    # Labels are seldom balanced: the rarer value counts more.
    positive = np.stack([y[genes].mean(0) for genes in train])[:, None]  # (f, 1, k)
    positive = np.clip(positive, 1e-3, 1 - 1e-3)
    best, best_loss = [w.copy() for w in weights], np.full(n_folds, np.inf)
    waited = np.zeros(n_folds, int)
    n_batches = max(1, min(map(len, train)) // recipe.batch_size)
    fold = np.arange(n_folds)[:, None]
    step = 0
    for _ in range(recipe.n_epochs):
        order = [generator.permutation(genes) for generator, genes in zip(generators, train, strict=True)]
        for batch in range(n_batches):
            # Folds differ by a gene or so in size; the batch takes an equal part of each.
            genes = np.stack([np.array_split(o, n_batches)[batch][: min(map(len, order)) // n_batches] for o in order])
            gradients = _gradients(x[fold, genes], y[genes], weights, positive, recipe, generators[0])
            step += 1
            for w, g, m, v in zip(weights, gradients, first, second, strict=True):
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                w -= recipe.learning_rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        for i in np.flatnonzero(waited < recipe.patience):
            own = [w[i : i + 1] for w in weights]
            loss = _loss(logits(x[i : i + 1, validation[i]], own, recipe), y[validation[i]], positive[i : i + 1])
            waited[i] += 1
            if loss < best_loss[i]:
                best_loss[i], waited[i] = loss, 0
                for kept, w in zip(best, weights, strict=True):
                    kept[i] = w[i]
        if (waited >= recipe.patience).all():
            break
    return best


def logits(x: np.ndarray, weights: list[np.ndarray], recipe: Recipe) -> np.ndarray:
    """(n_folds, n, d) to (n_folds, n, k)."""
    h = _normed(x) if recipe.layer_norm else x
    for w in weights[:-1]:
        h = _silu(h @ w)
    return h @ weights[-1]


def _gradients(
    x: np.ndarray,
    y: np.ndarray,
    weights: list[np.ndarray],
    positive: np.ndarray,
    recipe: Recipe,
    generator: np.random.Generator,
) -> list[np.ndarray]:
    """Gradients of the mean loss over the batch (n_folds, n, d), by layer."""
    inputs, products, kept = [_normed(x) if recipe.layer_norm else x], [], []
    for w in weights[:-1]:
        products.append(inputs[-1] @ w)
        scale = (generator.random(products[-1].shape, np.float32) >= recipe.dropout) / np.float32(1 - recipe.dropout)
        kept.append(scale)
        inputs.append(_silu(products[-1]) * scale)
    slope = (_sigmoid(inputs[-1] @ weights[-1]) - y) * _balance(y, positive) / (x.shape[1] * y.shape[-1])
    found = [inputs[-1].swapaxes(1, 2) @ slope]
    for i in reversed(range(len(weights) - 1)):
        s = _sigmoid(products[i])
        slope = (slope @ weights[i + 1].swapaxes(1, 2)) * kept[i] * (s * (1 + products[i] * (1 - s)))
        found.insert(0, inputs[i].swapaxes(1, 2) @ slope)
    return found


def _loss(z: np.ndarray, y: np.ndarray, positive: np.ndarray) -> float:
    """Mean binary cross-entropy, rare labels weighted up."""
    entropy = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
    return float((entropy * _balance(y, positive)).mean())


def _balance(y: np.ndarray, positive: np.ndarray) -> np.ndarray:
    return np.where(y > 0.5, 0.5 / positive, 0.5 / (1 - positive)).astype(np.float32)


def _normed(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


def _silu(z: np.ndarray) -> np.ndarray:
    return z * _sigmoid(z)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * z))
