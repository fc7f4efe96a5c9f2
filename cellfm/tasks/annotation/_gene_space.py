"""What heads read of the genes: log-normalised, the variable ones, and their components, as fitted to a reference."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cellfm.cells.input import CellInput
from cellfm.tasks.annotation._features import (
    COMPONENTS,
    GENES,
    MODEL,
    TARGET_SUM,
    fit_components,
    log_of_counts,
    variable_genes,
)

ALL_GENES = "genes"
INPUTS = (MODEL, COMPONENTS, GENES, ALL_GENES)
"""What a part of a combined head may read."""
BLOCK = 512
"""Cells whose genes are dense at once."""


@dataclass(frozen=True)
class GeneSpace:
    """The genes of reference cells, by which other cells are described, whatever genes these have."""

    ids: np.ndarray
    """(n_genes,) int32: ids of the reference's genes in the vocabulary, ascending."""
    mean: np.ndarray
    """(n_genes,) float32: mean of the log-normalised values; cells without a gene get it."""
    share: np.ndarray
    """(n_genes,) float32: mean share of a gene in the counts of a cell, by which fewer genes are normalised."""
    variable: np.ndarray
    """(n_variable,) int32: places of the variable genes among these."""
    components: np.ndarray
    """(n_components, n_variable) float32: principal components of the variable genes."""

    @classmethod
    def fit(cls, ids: np.ndarray, values: sp.csr_matrix, *, random_state: int = 0) -> "GeneSpace":
        """From log-normalised values (n_cells, n_genes) of the genes `ids`."""
        variable = np.flatnonzero(variable_genes(values)).astype(np.int32)
        pca = fit_components(values[:, variable].toarray(), random_state)
        share = np.asarray(values.expm1().mean(0), np.float32).ravel()
        mean = np.asarray(values.mean(0), np.float32).ravel()
        return cls(ids, mean, share / max(share.sum(), 1e-12), variable, pca.components_.astype(np.float32))

    def describe(self, name: str, genes: np.ndarray | sp.csr_matrix) -> np.ndarray | sp.csr_matrix:
        """Cells (n_cells, n_genes) by components, variable genes or all genes; only all genes stay sparse."""
        if name == ALL_GENES:
            return genes
        seen = genes[:, self.variable]
        seen = seen if isinstance(seen, np.ndarray) else seen.toarray()
        return seen if name == GENES else (seen - self.mean[self.variable]) @ self.components.T

    def missing(self, cells: CellInput) -> np.ndarray:
        """(n_genes,) bool: the genes that cells lack."""
        return ~np.isin(self.ids, cells.match.ids)

    def blocks(self, cells: CellInput) -> Iterator[tuple[slice, np.ndarray]]:
        """Cells in order by these genes, (n_block, n_genes): the mean of the reference for genes that they lack."""
        missing = self.missing(cells)
        for span, values in log_values(cells, self.ids, TARGET_SUM * float(self.share[~missing].sum())):
            genes = values.toarray()
            genes[:, missing] = self.mean[missing]
            yield span, genes


def log_values(
    cells: CellInput, ids: np.ndarray, target_sum: float = TARGET_SUM
) -> Iterator[tuple[slice, sp.csr_matrix]]:
    """Blocks of cells by the genes `ids`, ascending: log1p of counts per `target_sum` over these genes.

    Values that the user has normalised are not changed.
    """
    known = np.flatnonzero(np.isin(cells.match.ids, ids))
    place = np.searchsorted(ids, cells.match.ids[known])
    to_genes = sp.csr_matrix((np.ones(len(known), np.float32), (known, place)), (len(cells.match.ids), len(ids)))
    for span, block in (cells.counts if cells.values is None else cells.values).blocks(BLOCK):
        genes = sp.csr_matrix(block.astype(np.float32) @ to_genes)
        yield span, log_of_counts(genes, target_sum) if cells.values is None else genes
