"""Counts of cells in the form that shards keep: known genes only, capped, sorted, with a hash of the content."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cellfm.cells.tokenize import MAX_DEPTH, _sums, mix

_SPLIT = np.uint64(0x5EED0FCE115)  # makes the split independent of other uses of the hashes


@dataclass(frozen=True)
class PackedCells:
    """Counts of cells, concatenated: those of cell `i` are ``indptr[i]:indptr[i + 1]``."""

    indptr: np.ndarray
    """(n_cells + 1,) int64."""
    gene_ids: np.ndarray
    """(n_tokens,) uint16 or int32, ascending within a cell, none of them 0."""
    counts: np.ndarray
    """(n_tokens,) unsigned, none of them 0: after the cap of the depth."""
    depth: np.ndarray
    """(n_cells,) float32: counts of all measured genes, before the cap."""
    hashes: np.ndarray
    """(n_cells,) uint64: hash of gene ids and counts."""

    @property
    def n_cells(self) -> int:
        return len(self.indptr) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Expressed known genes of each cell."""
        return np.diff(self.indptr)

    def take(self, kept: np.ndarray) -> "PackedCells":
        """The cells where `kept`, (n_cells,) bool, is true."""
        tokens = np.repeat(kept, self.lengths)
        indptr = np.concatenate(([0], np.cumsum(self.lengths[kept])))
        return PackedCells(indptr, self.gene_ids[tokens], self.counts[tokens], self.depth[kept], self.hashes[kept])

    def split(self, n_cells: int) -> tuple["PackedCells", "PackedCells"]:
        """The first `n_cells` cells, and the others."""
        cut = int(self.indptr[n_cells])
        return (
            PackedCells(
                self.indptr[: n_cells + 1],
                self.gene_ids[:cut],
                self.counts[:cut],
                self.depth[:n_cells],
                self.hashes[:n_cells],
            ),
            PackedCells(
                self.indptr[n_cells:] - cut,
                self.gene_ids[cut:],
                self.counts[cut:],
                self.depth[n_cells:],
                self.hashes[n_cells:],
            ),
        )


def id_type(n_genes: int) -> np.dtype:
    """The type for storing ids of a vocabulary."""
    return np.dtype(np.uint16 if n_genes <= np.iinfo(np.uint16).max else np.int32)


def pack_cells(counts: sp.csr_matrix, gene_ids: np.ndarray, n_genes: int) -> PackedCells:
    """Convert counts to the form of a shard, from which `tokenize` starts.

    The depth is capped over all measured genes (``round(c / max(1, sum(c) / 1e5))``), columns of one gene are added up
    before, and zeros and unknown genes are left out.

    Parameters
    ----------
    counts
        (n_cells, n_vars) counts of all measured genes.
    gene_ids
        (n_vars,) id of each column in the vocabulary, 0 where unknown.
    n_genes
        Genes of the vocabulary.
    """
    n_cells = counts.shape[0]
    data = counts.data.astype(np.float32, copy=False)
    depth = _sums(data, counts.indptr)
    ids = np.asarray(gene_ids, np.int32)[counts.indices]
    known = np.flatnonzero((ids > 0) & (data > 0))
    merged = sp.csr_matrix(
        (data[known], ids[known], np.searchsorted(known, counts.indptr)), shape=(n_cells, n_genes + 1)
    )
    merged = merged.tocsc().tocsr()  # sorts the genes of each cell in linear time
    merged.sum_duplicates()
    data = merged.data
    if depth.max(initial=0) > MAX_DEPTH:
        data = np.rint(data / np.repeat(np.maximum(1.0, depth / MAX_DEPTH), np.diff(merged.indptr)))
    whole = data.astype(np.uint32)
    left = np.flatnonzero(whole)
    indptr = np.searchsorted(left, merged.indptr).astype(np.int64)
    whole, ids = whole[left], merged.indices[left].astype(id_type(n_genes))
    whole = whole.astype(np.min_scalar_type(int(whole.max(initial=0))))
    return PackedCells(indptr, ids, whole, depth.astype(np.float32), hash_cells(indptr, ids, whole))


def hash_cells(indptr: np.ndarray, gene_ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(n_cells,) uint64: equal for equal genes and counts, in any order."""
    token = mix(gene_ids.astype(np.uint64) << np.uint64(32) | counts.astype(np.uint64))
    hashes = np.zeros(len(indptr) - 1, np.uint64)
    filled = np.diff(indptr) > 0
    if filled.any():
        hashes[filled] = np.add.reduceat(token, indptr[:-1][filled])  # wraps around
    return mix(hashes)


def in_validation(hashes: np.ndarray, fraction: float) -> np.ndarray:
    """(n_cells,) bool: a share of all cells, chosen by their content alone."""
    return (mix(hashes ^ _SPLIT) >> np.uint64(11)) * 2.0**-53 < fraction


class SeenHashes:
    """Known hashes, with 8 bytes each, in sorted arrays that are merged as they grow."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, hashes: np.ndarray) -> np.ndarray:
        """Add hashes; (n,) bool: which of them are new, and not repeated within `hashes`."""
        new = np.zeros(len(hashes), bool)
        new[np.unique(hashes, return_index=True)[1]] = True
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, hashes), len(run) - 1)
            new &= run[place] != hashes
        fresh = np.sort(hashes[new])
        if len(fresh):
            self._runs.append(fresh)
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            merged = np.concatenate((self._runs.pop(), self._runs.pop()))
            merged.sort(kind="stable")
            self._runs.append(merged)
        return new
