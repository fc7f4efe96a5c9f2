"""What is learned from: two poorer views of each of some cells of one data set, and which of them belong together."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from benchmarks.mini.corpus import CountSet
from cellfm.data import Chunks, TokenBatch, chunk_cells, chunks_of, tokenize

MIN_GENES = 5
"""Views with fewer genes are left out."""


@dataclass(frozen=True)
class ViewRecipe:
    """How views are made, and what counts as near."""

    max_genes: int = 1000
    """Tokens of a view: a sample of the genes that are left."""
    max_cells: int = 192
    """Cells of a batch, each with two views."""
    keep_counts: tuple[float, float] = (0.3, 1.0)
    """Share of the counts that a view keeps (binomial thinning), drawn evenly in this range."""
    whole_panel: float = 0.5
    """Share of the views that keep all genes."""
    keep_genes: tuple[float, float] = (0.1, 1.0)
    """Share of the genes that other views keep, drawn evenly on a log scale."""
    type_weight: float = 0.5
    """Weight of labelled cells of the same type as positives; the other view of the cell weighs 1."""
    pca_weight: float = 0.5
    """Weight of cells near by the principal components of their own data set."""
    pca_temperature: float = 0.1


@dataclass
class Batch:
    """Arrays of one step of the network; their shapes never change."""

    chunks: Chunks
    visible: np.ndarray
    """(n_chunks, length) float32: 0 where the value is hidden."""
    target: np.ndarray
    """(n_chunks, length) float32: 1 where the value is to be predicted."""
    positives: np.ndarray
    """(n_slots, n_slots) float32: how near each view should be to the others; rows sum to 1, or 0 if unused."""
    allowed: np.ndarray
    """(n_slots, n_slots) float32: 1 where two views are compared."""


def draw_views(
    cells: CountSet, recipe: ViewRecipe, generator: np.random.Generator
) -> tuple[np.ndarray, TokenBatch, np.ndarray]:
    """Two views of some cells: the rows of the cells, the tokens (all first views, then all second), what is usable."""
    rows = generator.permutation(cells.n_cells)[: recipe.max_cells]
    first, second = (_draw_view(cells, rows, recipe, generator) for _ in range(2))
    usable = (first.lengths >= MIN_GENES) & (second.lengths >= MIN_GENES)
    both = TokenBatch(
        np.concatenate((first.indptr, first.indptr[-1] + second.indptr[1:])),
        np.concatenate((first.gene_ids, second.gene_ids)),
        np.concatenate((first.values, second.values)),
    )
    return rows, both, usable


def _draw_view(cells: CountSet, rows: np.ndarray, recipe: ViewRecipe, generator: np.random.Generator) -> TokenBatch:
    counts = cells.counts[rows].copy()
    kept = np.repeat(generator.uniform(*recipe.keep_counts, len(rows)), np.diff(counts.indptr))
    counts.data = generator.binomial(counts.data.astype(np.int64), kept).astype(np.float32)
    low, high = np.log(recipe.keep_genes)
    share = 1.0 if generator.random() < recipe.whole_panel else np.exp(generator.uniform(low, high))
    panel = generator.random(counts.shape[1]) < share
    counts.data[~panel[counts.indices]] = 0
    counts.eliminate_zeros()
    ids = np.where(panel, cells.gene_ids, 0)
    return tokenize(counts, ids, max_genes=recipe.max_genes, random_state=int(generator.integers(2**31)))


def wanted_neighbors(cells: CountSet, rows: np.ndarray, recipe: ViewRecipe) -> np.ndarray:
    """(2 n, 2 n): how near the views of n cells should be to each other; each row sums to 1, the diagonal is 0."""
    cell = np.tile(np.arange(len(rows)), 2)
    other = ~np.eye(len(cell), dtype=bool)
    wanted = ((cell[:, None] == cell[None]) & other).astype(np.float32)
    if cells.labels is not None and recipe.type_weight:
        label = np.tile(cells.labels[rows], 2)
        same = (label[:, None] == label[None]) & (label != "")[:, None] & other
        wanted += recipe.type_weight * same / np.maximum(same.sum(1, keepdims=True), 1)
    if recipe.pca_weight:
        near = np.tile(cells.components[rows], (2, 1))
        near = np.exp((near @ near.T - 1) / recipe.pca_temperature) * other
        wanted += recipe.pca_weight * near / near.sum(1, keepdims=True)
    return wanted / np.maximum(wanted.sum(1, keepdims=True), 1e-9)


def draw_batch(cells: CountSet, recipe: ViewRecipe, n_chunks: int, generator: np.random.Generator) -> Batch:
    """A batch for the network, of as many cells as fit into `n_chunks` chunks."""
    rows, tokens, usable = draw_views(cells, recipe, generator)
    needed = np.where(usable, chunks_of(tokens.lengths).reshape(2, -1).sum(0), 0)
    chosen = np.flatnonzero(usable & (np.cumsum(needed) <= n_chunks))
    slots = np.concatenate((chosen, chosen + len(rows)))
    n_slots = 2 * recipe.max_cells
    chunks = chunk_cells(tokens, slots, n_chunks=n_chunks, n_slots=n_slots)
    visible, target = _hide(chunks, tokens.lengths[slots], generator)
    positives, allowed = np.zeros((2, n_slots, n_slots), np.float32)
    n = len(slots)
    positives[:n, :n] = wanted_neighbors(cells, rows[chosen], recipe)
    allowed[:n, :n] = ~np.eye(n, dtype=bool)
    return Batch(chunks, visible, target, positives, allowed)


def _hide(chunks: Chunks, lengths: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Which values are hidden and which are targets, as in the paper: of 20 % targets, 80 % are hidden."""
    n_target = (0.2 * lengths).astype(int)
    n_hidden = (0.8 * n_target).astype(int)
    order = np.lexsort((generator.random(lengths.sum()), np.repeat(np.arange(len(lengths)), lengths)))
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    visible, target = np.ones(chunks.mask.size, np.float32), np.zeros(chunks.mask.size, np.float32)
    target[chunks.token_row[rank < np.repeat(n_target, lengths)]] = 1
    visible[chunks.token_row[rank < np.repeat(n_hidden, lengths)]] = 0
    return visible.reshape(chunks.mask.shape), target.reshape(chunks.mask.shape)


def values_of(tokens: TokenBatch, n_rows: int) -> sp.csr_matrix:
    """Values of tokens by gene id, (n_cells, n_rows)."""
    return sp.csr_matrix((tokens.values, tokens.gene_ids.astype(np.int64), tokens.indptr), (tokens.n_cells, n_rows))
