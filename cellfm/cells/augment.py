"""Augmented views of a cell: fewer counts, fewer measured genes, additional unexpressed genes.

Every function works on one cell and draws from the generator it is given.
"""

import numpy as np

THIN_SHAPE = 2.0
"""The rate of thinning is drawn from Beta(2, 2), around a half."""


def thin(counts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Keep each count with one probability, drawn from Beta(2, 2); an expressed gene keeps at least one count."""
    rate = generator.beta(THIN_SHAPE, THIN_SHAPE)
    return np.maximum(generator.binomial(counts.astype(np.int64), rate), np.minimum(counts, 1)).astype(np.float32)


def choose_panel(gene_ids: np.ndarray, generator: np.random.Generator, *, least: float) -> np.ndarray:
    """Genes of a random panel, bool; their share is drawn uniformly from `least` to 1."""
    return generator.random(len(gene_ids)) < generator.uniform(least, 1.0)


def sample_unexpressed(gene_ids: np.ndarray, n_vocab: int, n: int, generator: np.random.Generator) -> np.ndarray:
    """Ids of up to `n` genes of the vocabulary that are not among `gene_ids`."""
    drawn = np.unique(generator.integers(1, n_vocab + 1, min(2 * n, 2 * n_vocab)))
    free = drawn[~np.isin(drawn, gene_ids)]
    return generator.permutation(free)[:n].astype(np.int32)
