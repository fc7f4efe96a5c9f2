"""Attention read exactly: whose keys a reader's query matches best, ranked within each cell."""

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
from scipy.stats import rankdata

from cellfm._encode import CellInput
from cellfm._progress import progress
from cellfm.data import TokenBatch
from cellfm.model import CellFM

BLOCK_CELLS = 256
"""Cells whose queries and keys are held at once."""


def ranked_scores(query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """How well a query (h, k) matches the keys (n, h, k) of a cell's genes: (n,), ranks scaled to 0..1, mean of heads.

    Equal scores share their rank. A single gene gets 0.5.
    """
    if len(key) == 1:
        return np.full(1, 0.5, np.float32)
    scores = np.einsum("hk,nhk->nh", query, key)
    return ((rankdata(scores, axis=0) - 1) / (len(key) - 1)).mean(1).astype(np.float32)


def cls_scores(
    model: CellFM, cells: CellInput, *, layer: int, batch_size: int | None = None, random_state: int = 0
) -> Iterator[tuple[slice, TokenBatch, np.ndarray]]:
    """Blocks of cells, their tokens, and how much CLS reads each, (n_tokens,) from 0 to 1 within a cell."""
    with progress(cells.counts.n_cells, "reading attention", "cells") as bar:
        for span, batch in cells.tokens(model.config.max_genes, random_state, n_cells=BLOCK_CELLS):
            found = model.attend(batch, layer=layer, batch_size=batch_size)
            scores = np.empty(len(batch.gene_ids), np.float32)
            for i in np.flatnonzero(batch.lengths):
                own = slice(batch.indptr[i], batch.indptr[i + 1])
                scores[own] = ranked_scores(found.cls_query[i], found.key[own])
            yield span, batch, scores
            bar.update(batch.n_cells)


def gene_scores(
    model: CellFM,
    cells: CellInput,
    gene_id: int,
    *,
    reads: bool = True,
    layer: int,
    batch_size: int | None = None,
    random_state: int = 0,
) -> Iterator[tuple[slice, TokenBatch, np.ndarray]]:
    """Blocks of cells, their tokens, and their score with one gene; NaN in cells without it and for the gene itself.

    Parameters
    ----------
    gene_id
        The gene, by its id in the vocabulary.
    reads
        True: how much this gene reads each other one (its query, their keys). False: how much each other one reads it
        (their queries, its key).
    """
    with progress(cells.counts.n_cells, "reading attention", "cells") as bar:
        for span, batch in cells.tokens(model.config.max_genes, random_state, n_cells=BLOCK_CELLS):
            found = model.attend(batch, layer=layer, batch_size=batch_size)
            own, others = (found.query, found.key) if reads else (found.key, found.query)
            scores = np.full(len(batch.gene_ids), np.nan, np.float32)
            for at in np.flatnonzero(batch.gene_ids == gene_id):
                cell = int(np.searchsorted(batch.indptr, at, side="right")) - 1
                rest = np.arange(batch.indptr[cell], batch.indptr[cell + 1])
                rest = rest[rest != at]
                if len(rest):
                    scores[rest] = ranked_scores(own[at], others[rest])
            yield span, batch, scores
            bar.update(batch.n_cells)


def mean_scores(
    blocks: Iterator[tuple[slice, TokenBatch, np.ndarray]], groups: np.ndarray, n_groups: int, n_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean score of each gene over the cells of each group that have one, and their number, (n_groups, n_rows)."""
    total, number = np.zeros((n_groups, n_rows)), np.zeros((n_groups, n_rows), np.int64)
    for span, batch, scores in blocks:
        group = np.repeat(groups[span], batch.lengths)
        known = np.flatnonzero((group >= 0) & np.isfinite(scores))
        np.add.at(total, (group[known], batch.gene_ids[known]), scores[known])
        np.add.at(number, (group[known], batch.gene_ids[known]), 1)
    with np.errstate(invalid="ignore"):
        return total / number, number


def score_matrix(
    blocks: Iterator[tuple[slice, TokenBatch, np.ndarray]], n_cells: int, n_rows: int, chosen: np.ndarray
) -> sp.csr_matrix:
    """Scores of the `chosen` genes (ids) in each cell, (n_cells, len(chosen)); 0 where a gene is not expressed."""
    column = np.full(n_rows, -1)
    column[chosen] = np.arange(len(chosen))
    parts = []
    for _, batch, scores in blocks:
        kept = np.flatnonzero(column[batch.gene_ids] >= 0)
        cell = np.repeat(np.arange(batch.n_cells), batch.lengths)[kept]
        shape = (batch.n_cells, len(chosen))
        parts.append(sp.csr_matrix((scores[kept], (cell, column[batch.gene_ids[kept]])), shape))
    return sp.vstack(parts).tocsr() if parts else sp.csr_matrix((n_cells, len(chosen)))
