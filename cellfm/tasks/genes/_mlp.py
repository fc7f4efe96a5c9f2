"""The paper's classifiers of genes, small networks without bias.

Two forms (Zeng 2025, "Gene function prediction"): for two classes d -> d/2 -> d/4 -> 1 with dropout, for many labels a
layer norm and d -> 1028 -> 512 -> 256 -> k.
"""

from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.stats import rankdata

from cellfm.engines import apply, fit, shuffled

Hidden = tuple[int, ...]
Weights = dict[str, Any]
TIE = 1e-9
"""Weight of the validation loss beside the AUROC: less than any step of the AUROC."""


@dataclass(frozen=True)
class Recipe:
    """Configuration of the training."""

    hidden: Hidden
    dropout: float = 0.15
    layer_norm: bool = False
    learning_rate: float = 1e-4
    n_epochs: int = 200
    batch_size: int = 32
    patience: int = 20
    """Number of epochs without improvement after which training stops."""


def binary_recipe(d: int, **options: Any) -> Recipe:
    """For two classes."""
    return Recipe((max(2, d // 2), max(2, d // 4)), **options)


def multilabel_recipe(**options: Any) -> Recipe:
    """For many labels."""
    return Recipe((1028, 512, 256), layer_norm=True, dropout=0.0, batch_size=128, **options)


def train_folds(
    x: np.ndarray,
    y: np.ndarray,
    train: list[np.ndarray],
    validation: list[np.ndarray],
    recipe: Recipe,
    random_state: int = 0,
) -> Weights:
    """Train one network per fold, all in parallel; each keeps the weights of its best epoch by its validation genes.

    The best epoch has the largest macro AUROC. The loss decides only where this is equal, for it also rises while a
    network ranks genes better and better, when it grows too sure; it may even be least before the first step.

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
    Weights by layer, (n_folds, in, out) each.
    """
    n_folds = len(train)
    generators = [np.random.default_rng((random_state, fold)) for fold in range(n_folds)]
    weights = {
        f"{i}": np.stack([g.standard_normal((a, b)) * np.sqrt(2 / (a + b)) for g in generators]).astype(np.float32)
        for i, (a, b) in enumerate(pairwise((x.shape[2], *recipe.hidden, y.shape[1])))
    }
    # Labels are seldom balanced, so the rarer value gets more weight.
    positive = np.clip([[y[genes].mean(0)] for genes in train], 1e-3, 1 - 1e-3)  # (f, 1, k)
    balance = np.where(y > 0.5, 0.5 / positive, 0.5 / (1 - positive)).astype(np.float32)  # (f, n_genes, k)
    # Folds differ slightly in size; a batch takes equally many genes of each.
    size = min(recipe.batch_size, *map(len, train))
    shuffles = [shuffled(len(genes), size, (random_state, fold)) for fold, genes in enumerate(train)]
    n_batches = min(n for _, n in shuffles)
    x = _normed(x) if recipe.layer_norm else x
    # One shape for the validation genes of all folds; what follows the last gene of a fold is ignored.
    n_validation = max(map(len, validation))
    held_out = np.stack([fold[np.resize(genes, n_validation)] for fold, genes in zip(x, validation, strict=True)])

    def validate(weights: Weights) -> list[float]:
        scores = []
        for z, weight, genes in zip(apply(_logits, weights, held_out), balance, validation, strict=True):
            logits = z[: len(genes)]
            loss = float(_entropy(np, logits, y[genes], weight[genes]).mean())
            scores.append(TIE * loss - macro_auroc(y[genes], logits))
        return scores

    def batch(step: int) -> tuple[np.ndarray, ...]:
        genes = [genes[rows(step)[0]] for genes, (rows, _) in zip(train, shuffles, strict=True)]
        masks: list[np.ndarray] = []
        if recipe.dropout:
            random = np.random.default_rng((random_state, n_folds, step)).random
            sizes = [(n_folds, size, width) for width in recipe.hidden]
            masks = [(random(s, np.float32) >= recipe.dropout) / np.float32(1 - recipe.dropout) for s in sizes]
        return np.stack(genes), *masks

    return fit(
        _loss,
        weights,
        batch,
        data=(x, y, balance),
        steps=recipe.n_epochs * n_batches,
        learning_rate=recipe.learning_rate,
        validate=validate,
        every=n_batches,
        patience=recipe.patience,
    )[0]


def probabilities(x: np.ndarray, weights: Weights, recipe: Recipe) -> np.ndarray:
    """By fold, (n_folds, n, d) to (n_folds, n, k)."""
    z = apply(_logits, weights, _normed(x) if recipe.layer_norm else x)
    return 1 / (1 + np.exp(-z))


def macro_auroc(y: np.ndarray, scores: np.ndarray) -> float:
    """The mean over the labels, (n, k), that some genes have and others do not, by ranks; 0.5 if there are none."""
    positive = y.sum(0, dtype=float)
    pairs = positive * (len(y) - positive)
    won = (rankdata(scores, axis=0) * y).sum(0) - positive * (positive + 1) / 2
    return float(np.mean((won / np.maximum(pairs, 1))[pairs > 0])) if pairs.any() else 0.5


def _loss(xp: SimpleNamespace, weights: Weights, x: Any, y: Any, balance: Any, genes: Any, *masks: Any) -> Any:
    """Summed over folds, which share no weights: the mean over some genes of each fold, (n_folds, n)."""
    fold = np.arange(len(x))[:, None]
    z = _logits(xp, weights, x[fold, genes], *masks)  # (f, n, k)
    return _entropy(xp, z, y[genes], balance[fold, genes]).mean((1, 2)).sum()


def _entropy(xp: Any, z: Any, y: Any, balance: Any) -> Any:
    """Binary cross-entropy of each label, weighted by `balance`."""
    return balance * (xp.maximum(z, 0) - z * y + xp.log(1 + xp.exp(-xp.abs(z))))


def _logits(xp: SimpleNamespace, weights: Weights, x: Any, *masks: Any) -> Any:
    h = x
    for i in range(len(weights) - 1):
        h = xp.silu(h @ weights[f"{i}"])
        h = h * masks[i] if masks else h  # dropout
    return h @ weights[f"{len(weights) - 1}"]


def _normed(x: np.ndarray) -> np.ndarray:
    """The layer norm of the input, without parameters."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
