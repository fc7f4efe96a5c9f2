"""Embeddings of genes: rows of the model's gene table, or their tokens in the context of cells."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cellfm.cells.input import CellInput
from cellfm.io.progress import progress
from cellfm.model import CellFM

BLOCK_NUMBERS = 2**26
"""Number of values of token embeddings that are held at once (256 MiB)."""


@dataclass(frozen=True)
class GeneMeans:
    """Mean token output of each gene of a vocabulary, over the cells that express it."""

    mean: np.ndarray
    """(n_groups, n_genes + 1, d_model) float32; row 0 of a group and genes without cells are NaN."""
    n_cells: np.ndarray
    """(n_groups, n_genes + 1) int64: cells that the mean is over."""

    def overall(self) -> np.ndarray:
        """(n_genes + 1, d_model) float32: the mean over the cells of all groups."""
        weight = self.n_cells[..., None]
        with np.errstate(invalid="ignore"):
            return (np.where(weight, self.mean * weight, 0).sum(0) / weight.sum(0)).astype(np.float32)


def static_embedding(model: CellFM, gene_ids: np.ndarray) -> np.ndarray:
    """Rows of the gene table, (len(gene_ids), d_model); NaN for id 0, which is not a gene."""
    rows = model.weights["embed.gene"][gene_ids].astype(np.float32)
    rows[gene_ids == 0] = np.nan
    return rows


def contextual_means(
    model: CellFM,
    cells: CellInput,
    groups: np.ndarray,
    n_groups: int,
    *,
    batch_size: int | None = None,
    random_state: int = 0,
) -> GeneMeans:
    """Mean token output of genes over the cells of each group, computed block by block.

    Parameters
    ----------
    groups
        (n_cells,) group of each cell, 0 to n_groups - 1; negative for cells that are left out.
    """
    n_rows, d = len(model.vocab) + 1, model.config.d_model
    total = np.zeros((n_groups, n_rows, d))
    number = np.zeros((n_groups, n_rows), np.int64)
    size = max(1, BLOCK_NUMBERS // (d * min(model.config.max_genes, len(model.vocab))))
    with progress(cells.counts.n_cells, "embedding genes", "cells") as bar:
        for span, batch in cells.tokens(model.config.max_genes, random_state, n_cells=size):
            group = np.repeat(groups[span], batch.lengths)
            output = model.encode(batch, outputs=("tokens",), batch_size=batch_size).tokens
            for one in np.unique(group[group >= 0]):
                chosen = np.flatnonzero(group == one)
                ids = batch.gene_ids[chosen]
                pick = sp.csr_matrix((np.ones(len(ids), np.float32), (ids, chosen)), (n_rows, len(group)))
                total[one] += pick @ output
                number[one] += np.bincount(ids, minlength=n_rows)
            bar.update(batch.n_cells)
    with np.errstate(invalid="ignore"):
        return GeneMeans((total / number[..., None]).astype(np.float32), number)
