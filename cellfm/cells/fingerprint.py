"""Fingerprints: one number for each cell's input to a model, to check that a stored embedding belongs to the cell.

The fingerprint of the counts of a cell is their weighted sum modulo 2^64, where each gene has a weight that looks
random: one product of a matrix and a vector. Different cells share one by chance only (about 1 in 2^64), the order of
the genes does not matter, and counts of the same gene add up as they do when they become tokens.
"""

import numpy as np
import scipy.sparse as sp

from cellfm.cells.tokenize import mix

# Beyond the ids of genes.
_OF_DEPTH, _OF_VALUES, _OF_ROWS = (mix(np.array([number << 32], np.uint64)) for number in (1, 2, 3))
_ROWS_AT_ONCE = 8192


def count_fingerprints(counts: sp.csr_matrix, gene_ids: np.ndarray) -> np.ndarray:
    """Of counts, cells x genes: (n_cells,) uint64.

    Parameters
    ----------
    counts
        Of all measured genes: their sum counts too, because it decides what becomes of deep cells.
    gene_ids
        (n_genes,) id of each in the vocabulary, 0 for unknown ones.
    """
    return mix(_weighted_sums(counts, np.rint(counts.data).astype(np.uint64), _weights(gene_ids) + _OF_DEPTH))


def value_fingerprints(values: sp.csr_matrix, gene_ids: np.ndarray) -> np.ndarray:
    """Of any values, cells x genes, of which no two genes are the same: (n_cells,) uint64."""
    bits = np.ascontiguousarray(values.data, np.float32).view(np.uint32).astype(np.uint64)
    return mix(_weighted_sums(values, bits, _weights(gene_ids)) ^ _OF_VALUES)


def tie(fingerprints: np.ndarray, embedding: np.ndarray) -> np.ndarray:
    """Fingerprints of cells and their embeddings, as stored in a record: (n_cells,) uint64.

    They do not depend on the order of the cells, so a cell and its embedding can be checked in any subset.
    """
    embedding = np.ascontiguousarray(embedding, np.float32)
    weights = mix(np.arange(embedding.shape[1], dtype=np.uint64) ^ _OF_ROWS)
    rows = np.empty(len(embedding), np.uint64)
    for start in range(0, len(embedding), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        rows[part] = embedding[part].view(np.uint32).astype(np.uint64) @ weights
    return mix(fingerprints + mix(rows))


def among(fingerprints: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether each fingerprint is in `known`, which is sorted: (n_cells,) bool."""
    places = np.searchsorted(known, fingerprints)
    return (places < len(known)) & (np.append(known, np.uint64(0))[places] == fingerprints)


def _weights(gene_ids: np.ndarray) -> np.ndarray:
    """(n_genes,) uint64: looks random, 0 for unknown genes."""
    return mix(np.asarray(gene_ids).astype(np.uint64)) * (np.asarray(gene_ids) > 0)


def _weighted_sums(matrix: sp.csr_matrix, data: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return sp.csr_matrix((data, matrix.indices, matrix.indptr), matrix.shape) @ weights
