"""Turn counts into tokens: depth cap, normalisation, sampling of genes (paper, Methods, "Data collection" and
"Embedding").

Everything is vectorised over the stored values of a CSR block; nothing is densified.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

MAX_DEPTH = 1e5
"""Cells with more counts are scaled down to this many."""
TARGET_SUM = 1e4
"""Values are log1p of counts per this many."""


@dataclass(frozen=True)
class TokenBatch:
    """Tokens of cells, concatenated: those of cell `i` are ``indptr[i]:indptr[i + 1]``."""

    indptr: np.ndarray
    """(n_cells + 1,) int64."""
    gene_ids: np.ndarray
    """(n_tokens,) int32, none of them 0."""
    values: np.ndarray
    """(n_tokens,) float32."""
    depth: np.ndarray | None = None
    """(n_cells,) float32: counts of all measured genes, before the cap."""

    @property
    def n_cells(self) -> int:
        return len(self.indptr) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each cell."""
        return np.diff(self.indptr)


def tokenize(
    counts: sp.csr_matrix,
    gene_ids: np.ndarray,
    *,
    max_genes: int,
    random_state: int = 0,
    values: np.ndarray | sp.csr_matrix | None = None,
) -> TokenBatch:
    """Turn counts into tokens.

    Parameters
    ----------
    counts
        (n_cells, n_vars) counts of all measured genes: the depth of a cell is their sum.
    gene_ids
        (n_vars,) id of each column in the vocabulary, 0 where unknown. Columns with the same id are summed.
    max_genes
        Cells with more expressed genes keep a weighted sample of this many.
    random_state
        Seed of that sample. The sample also depends on the cell's own tokens, but not on other cells or on the order of
        cells or genes.
    values
        (n_cells, n_vars) values that replace the normalised counts; `counts` then only say which genes are expressed,
        and no two columns may be the same gene.

    Returns
    -------
    Tokens of every cell, in the order of the cells; a cell without known genes has none.
    """
    if values is None:
        counts, gene_ids = _sum_same_genes(counts, gene_ids)
        data = _cap_depth(counts)
    else:
        data = counts.data.astype(np.float32, copy=False)
    depth = _sums(counts.data, counts.indptr).astype(np.float32)
    ids = np.asarray(gene_ids, np.int32)[counts.indices]
    token = np.flatnonzero((ids > 0) & (data > 0))  # the stored values that become tokens
    indptr = np.searchsorted(token, counts.indptr).astype(np.int64)
    lengths = np.diff(indptr)
    ids, data = ids[token], data[token]
    if values is None:
        scale = np.divide(TARGET_SUM, _sums(data, indptr), out=np.zeros(len(lengths)), where=lengths > 0)
        given = np.log1p(data * np.repeat(scale.astype(np.float32), lengths))
    else:
        rows = np.repeat(np.arange(len(lengths)), lengths)
        given = np.asarray(values[rows, counts.indices[token]], np.float32).ravel()

    if lengths.max(initial=0) > max_genes:
        kept = _sample(indptr, ids, data, max_genes, random_state)
        ids, given = ids[kept], given[kept]
        indptr = np.concatenate(([0], np.cumsum(np.minimum(lengths, max_genes))))
    return TokenBatch(indptr, ids, given, depth)


def _sums(data: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    """Sum of each row, float64; 0 for empty rows."""
    sums = np.zeros(len(indptr) - 1)
    filled = np.diff(indptr) > 0
    if filled.any():
        sums[filled] = np.add.reduceat(data, indptr[:-1][filled], dtype=np.float64)
    return sums


def _sum_same_genes(counts: sp.csr_matrix, gene_ids: np.ndarray) -> tuple[sp.csr_matrix, np.ndarray]:
    """Sum columns that are the same gene; unknown columns are not changed."""
    known = gene_ids[gene_ids > 0]
    if len(np.unique(known)) == len(known):
        return counts, gene_ids
    # Each unknown column gets a number of its own, so that only known genes meet.
    groups = np.where(gene_ids > 0, gene_ids, -1 - np.arange(len(gene_ids)))
    merged_ids, column = np.unique(groups, return_inverse=True)
    selector = sp.csr_matrix(
        (np.ones(len(column), np.float32), (np.arange(len(column)), column)), (len(column), len(merged_ids))
    )
    return counts.astype(np.float32) @ selector, np.maximum(merged_ids, 0).astype(np.int32)


def _cap_depth(counts: sp.csr_matrix) -> np.ndarray:
    """The stored counts as ``round(c / max(1, sum(c) / 1e5))``, float32."""
    data = counts.data.astype(np.float32, copy=False)
    depth = _sums(data, counts.indptr)
    if depth.max(initial=0) <= MAX_DEPTH:
        return data
    factor = np.maximum(1.0, depth / MAX_DEPTH)
    return np.rint(data / np.repeat(factor, np.diff(counts.indptr))).astype(np.float32)


def _sample(indptr: np.ndarray, ids: np.ndarray, data: np.ndarray, max_genes: int, random_state: int) -> np.ndarray:
    """Which tokens to keep: in long cells `max_genes`, without replacement, with probability as log1p(count).

    Every token draws ``log(u) / weight`` with a `u` hashed from cell and gene, and the largest stay: the same law as
    drawing one after the other (Efraimidis and Spirakis 2006).
    """
    kept = np.ones(len(ids), bool)
    salt = mix(np.array([random_state], np.uint64))
    for cell in np.flatnonzero(np.diff(indptr) > max_genes).tolist():
        span = slice(indptr[cell], indptr[cell + 1])
        token = mix(ids[span].astype(np.uint64) << np.uint64(32) | data[span].astype(np.uint64))
        seed = mix(token.sum(dtype=np.uint64) ^ salt)  # the sum wraps around: the same for any order of the genes
        uniform = ((mix(token ^ seed) >> np.uint64(11)) + 0.5) * 2.0**-53
        keys = np.log(uniform) / np.log1p(data[span])
        kept[indptr[cell] + np.argpartition(keys, -max_genes)[:-max_genes]] = False
    return kept


def mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: a bijection of 64-bit numbers whose output looks random."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
