"""Batches to learn from: two poorer views of each of some cells of one data set, and which of them belong together."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from benchmarks.mini.corpus import CountSet
from cellfm.data import CHUNK, Chunks, TokenBatch, chunk_cells, chunks_of, tokenize


@dataclass(frozen=True)
class ViewRecipe:
    """How views are made and batches filled."""

    max_genes: int = 255
    """Tokens of a view: a sample of the genes that are left."""
    n_chunks: int = 384
    """Chunks of a batch, the same in every step."""
    max_cells: int = 192
    """Cells of a batch, each with two views."""
    keep_counts: tuple[float, float] = (0.3, 1.0)
    """Share of the counts that a view keeps (binomial thinning), drawn evenly in this range."""
    whole_panel: float = 0.5
    """Share of the views that keep all genes."""
    keep_genes: tuple[float, float] = (0.1, 1.0)
    """Share of the genes that other views keep, drawn evenly on a log scale."""
    type_weight: float = 1.0
    """Weight of labelled cells of the same type as positives, next to the other view."""
    target_share: float = 0.2
    hidden_share: float = 0.8


@dataclass
class Batch:
    """Arrays of one step; shapes are those of the recipe."""

    chunks: Chunks
    visible: np.ndarray
    target: np.ndarray
    positives: np.ndarray
    """(n_slots, n_slots): weights of the other views that each view should be near; rows sum to 1, or 0 if unused."""
    allowed: np.ndarray
    """(n_slots, n_slots): 1 where two views are compared."""


def draw_view(cells: CountSet, rows: np.ndarray, recipe: ViewRecipe, generator: np.random.Generator) -> TokenBatch:
    """Thinned counts of a random panel of genes of some cells, as tokens."""
    counts = cells.counts[rows].copy()
    n_stored = np.diff(counts.indptr)
    kept = generator.uniform(*recipe.keep_counts, len(rows))
    counts.data = generator.binomial(counts.data.astype(np.int64), np.repeat(kept, n_stored)).astype(np.float32)
    low, high = np.log(recipe.keep_genes)
    share = np.exp(generator.uniform(low, high)) if generator.random() >= recipe.whole_panel else 1.0
    panel = generator.random(counts.shape[1]) < share
    ids = np.where(panel, cells.gene_ids, 0)
    counts.data[~panel[counts.indices]] = 0
    counts.eliminate_zeros()
    return tokenize(counts, ids, max_genes=recipe.max_genes, random_state=int(generator.integers(2**31)))


def draw_batch(cells: CountSet, recipe: ViewRecipe, generator: np.random.Generator) -> Batch:
    """Two views of as many cells of a data set as fit."""
    rows = generator.permutation(cells.n_cells)[: recipe.max_cells]
    first, second = (draw_view(cells, rows, recipe, generator) for _ in range(2))
    usable = (first.lengths > 4) & (second.lengths > 4)
    needed = np.where(usable, chunks_of(first.lengths) + chunks_of(second.lengths), 0)
    usable &= np.cumsum(needed) <= recipe.n_chunks
    chosen, n = np.flatnonzero(usable), int(usable.sum())

    both = TokenBatch(
        np.concatenate((first.indptr, first.indptr[-1] + second.indptr[1:])),
        np.concatenate((first.gene_ids, second.gene_ids)),
        np.concatenate((first.values, second.values)),
    )
    n_slots = 2 * recipe.max_cells
    slots = np.concatenate((chosen, chosen + len(rows)))
    chunks = chunk_cells(both, slots, n_chunks=recipe.n_chunks, n_slots=n_slots)

    lengths = both.lengths[slots]
    order = np.lexsort((generator.random(lengths.sum()), np.repeat(np.arange(2 * n), lengths)))
    rank = np.empty(len(order))
    rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    is_target = rank < np.repeat((recipe.target_share * lengths).astype(int), lengths)
    is_hidden = rank < np.repeat(
        (recipe.hidden_share * (recipe.target_share * lengths).astype(int)).astype(int), lengths
    )
    target, visible = np.zeros(chunks.mask.size, np.float32), np.ones(chunks.mask.size, np.float32)
    target[chunks.token_row[is_target]] = 1
    visible[chunks.token_row[is_hidden]] = 0

    positives, allowed = np.zeros((n_slots, n_slots), np.float32), np.zeros((n_slots, n_slots), np.float32)
    cell = np.tile(np.arange(n), 2)
    other = ~np.eye(2 * n, dtype=bool)
    wanted = ((cell[:, None] == cell[None]) & other).astype(np.float32)
    if cells.labels is not None and recipe.type_weight:
        label = np.tile(cells.labels[rows[chosen]], 2)
        same = (label[:, None] == label[None]) & (label != "")[:, None] & other
        wanted += recipe.type_weight * same / np.maximum(same.sum(1, keepdims=True), 1)
    positives[: 2 * n, : 2 * n] = wanted / np.maximum(wanted.sum(1, keepdims=True), 1e-9)
    allowed[: 2 * n, : 2 * n] = other
    shape = chunks.mask.shape
    return Batch(chunks, visible.reshape(shape), target.reshape(shape), positives, allowed)


def values_of(cells: CountSet, n_rows: int) -> sp.csr_matrix:
    """Normalised values of all cells over the ids of the vocabulary, (n_cells, n_rows)."""
    tokens = tokenize(cells.counts, cells.gene_ids, max_genes=cells.counts.shape[1])
    return sp.csr_matrix((tokens.values, tokens.gene_ids.astype(np.int64), tokens.indptr), (cells.n_cells, n_rows))


__all__ = ["CHUNK", "Batch", "ViewRecipe", "draw_batch", "draw_view", "values_of"]
