"""Exact attention scores: rank the genes of each cell by the match of their keys to a reader's query, and by
expression.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.stats import spearmanr

from cellfm.cells.input import CellInput
from cellfm.cells.tokenize import TokenBatch
from cellfm.io.messages import warn
from cellfm.io.progress import progress
from cellfm.keys import ATTENTION
from cellfm.model import CellFM
from cellfm.nn.parameters import NEGLIGIBLE

BLOCK_CELLS = 256
"""Number of cells whose queries and keys are held at once."""
ATTENTION_SCORE, EXPRESSION_SCORE = 0, 1
"""Columns of scores. The second is the control: the same statistic with expression instead of the score."""
MIN_GENES = 3
"""Minimum number of genes for a rank correlation."""

Blocks = Iterator[tuple[slice, TokenBatch, np.ndarray]]
"""Blocks of cells, their tokens, and the scores of these, (n_tokens, 2)."""


def ranked_scores(query: np.ndarray, key: np.ndarray, expression: np.ndarray) -> np.ndarray:
    """Ranks of a cell's genes by attention score and by expression, (n, 2) from 0 to 1.

    Equal scores share their rank. A single gene gets 0.5.

    Parameters
    ----------
    query
        (h, k) of the reader; ranks are the mean over its heads.
    key
        (n, h, k) of the genes.
    expression
        (n,) of the genes.
    """
    if len(key) == 1:
        return np.full((1, 2), 0.5, np.float32)
    *by_head, by_expression = scaled_ranks(np.vstack((np.einsum("hk,nhk->hn", query, key), expression)))
    return np.column_stack((np.mean(by_head, axis=0), by_expression))


def scaled_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks within each row of (m, n), from 0 to 1; equal values share theirs. Float32.

    As `scipy.stats.rankdata` gives them, in a third of the time; it takes most of the time of reading attention.
    """
    m, n = values.shape
    order = (values.argsort(axis=1) + n * np.arange(m)[:, None]).ravel()
    in_order = values.ravel()[order]
    begins = np.empty(m * n, bool)  # of a run of equal values in a row
    np.not_equal(in_order[1:], in_order[:-1], out=begins[1:])
    begins[::n] = True
    first = begins.nonzero()[0]
    length = np.diff(first, append=m * n)
    ranks = np.empty(m * n, np.float32)
    ranks[order] = np.repeat((first % n + (length - 1) / 2) / (n - 1), length)
    return ranks.reshape(m, n)


def pick_layer(model: CellFM, layer: int | None) -> int:
    """Number of the layer to read, counted from 0; `layer` is the user's choice, None for the last active one.

    Raises
    ------
    InputError
        There is no such layer, or its attention cannot be read.

    Warns
    -----
    DataWarning
        Its attention hardly changes any token.
    """
    chosen = model.attention_layer(layer)
    strength = model.attention_strengths[chosen]
    if strength < NEGLIGIBLE:
        warn(
            f"The attention of layer {chosen} of {model.name!r} adds {strength:.1g} times as much as that of layer "
            f"{model.attention_strengths.argmax()}: it hardly changes any token, and what it attends to may be "
            "noise."
        )
    return chosen


def layer_facts(model: CellFM, layer: int) -> dict[str, Any]:
    """The facts about the layer for the record of a run."""
    return {ATTENTION.attention_layer: layer, ATTENTION.active_layers: np.array(model.active_layers)}


def cls_scores(
    model: CellFM, cells: CellInput, *, layer: int, batch_size: int | None = None, random_state: int = 0
) -> Blocks:
    """Attention from CLS to each gene, ranked within each cell over the active heads of a layer, and the same for
    expression.
    """
    heads = model.active_heads[layer]
    with progress(cells.counts.n_cells, "reading attention", "cells") as bar:
        for span, batch in cells.tokens(model.config.max_genes, random_state, n_cells=BLOCK_CELLS):
            attended = model.attend(batch, layer=layer, batch_size=batch_size)
            query, key = _of_heads(heads, attended.cls_query, attended.key)
            scores = np.empty((len(batch.gene_ids), 2), np.float32)
            for i in np.flatnonzero(batch.lengths):
                tokens = slice(batch.indptr[i], batch.indptr[i + 1])
                scores[tokens] = ranked_scores(query[i], key[tokens], batch.values[tokens])
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
) -> Blocks:
    """As `cls_scores`, for one gene with each other gene; NaN in cells without it and for the gene itself.

    Parameters
    ----------
    gene_id
        The gene, by its id in the vocabulary.
    reads
        True: how much this gene reads each other one (its query, their keys). False: how much each other one reads it
        (their queries, its key).
    """
    heads = model.active_heads[layer]
    with progress(cells.counts.n_cells, "reading attention", "cells") as bar:
        for span, batch in cells.tokens(model.config.max_genes, random_state, n_cells=BLOCK_CELLS):
            attended = model.attend(batch, layer=layer, batch_size=batch_size)
            query, key = _of_heads(heads, attended.query, attended.key)
            ours, others = (query, key) if reads else (key, query)
            scores = np.full((len(batch.gene_ids), 2), np.nan, np.float32)
            for at in np.flatnonzero(batch.gene_ids == gene_id):
                cell = int(np.searchsorted(batch.indptr, at, side="right")) - 1
                rest = np.arange(batch.indptr[cell], batch.indptr[cell + 1])
                rest = rest[rest != at]
                if len(rest):
                    scores[rest] = ranked_scores(ours[at], others[rest], batch.values[rest])
            yield span, batch, scores
            bar.update(batch.n_cells)


def _of_heads(heads: np.ndarray, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """The active heads of arrays (n, h, k), without a copy where all are."""
    return arrays if heads.all() else tuple(array[:, heads] for array in arrays)


def mean_scores(blocks: Blocks, groups: np.ndarray, n_groups: int, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean scores of each gene over the cells of each group that have one, and the number of these cells.

    Returns
    -------
    Means (2, n_groups, n_rows) by attention and by expression, numbers (n_groups, n_rows).
    """
    size = n_groups * n_rows
    total, number = np.zeros((2, size)), np.zeros(size, np.int64)
    for span, batch, scores in blocks:
        group = np.repeat(groups[span].astype(np.int64), batch.lengths)
        known = np.flatnonzero((group >= 0) & np.isfinite(scores[:, ATTENTION_SCORE]))
        place = group[known] * n_rows + batch.gene_ids[known]
        for i in (ATTENTION_SCORE, EXPRESSION_SCORE):
            total[i] += np.bincount(place, scores[known, i], size)
        number += np.bincount(place, minlength=size)
    with np.errstate(invalid="ignore"):
        return (total / number).reshape(2, n_groups, n_rows), number.reshape(n_groups, n_rows)


def score_matrices(
    blocks: Blocks, n_cells: int, n_rows: int, chosen: np.ndarray
) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Scores of the `chosen` genes (ids) in each cell by attention and by expression, (n_cells, len(chosen)) each.

    Both have the same entries: those of genes that the cell expresses.
    """
    column = np.full(n_rows, -1)
    column[chosen] = np.arange(len(chosen))
    cells, genes, values = [np.empty(0, int)], [np.empty(0, int)], [np.empty((0, 2), np.float32)]
    for span, batch, scores in blocks:
        kept = np.flatnonzero(column[batch.gene_ids] >= 0)
        cells.append(span.start + np.repeat(np.arange(batch.n_cells), batch.lengths)[kept])
        genes.append(column[batch.gene_ids[kept]])
        values.append(scores[kept])
    place, both = (np.concatenate(cells), np.concatenate(genes)), np.concatenate(values)
    shape = (n_cells, len(chosen))
    by_attention, by_expression = (sp.csr_matrix((both[:, i], place), shape) for i in range(2))
    return by_attention, by_expression


def n_shared_at_top(attention: np.ndarray, expression: np.ndarray, n_genes: int) -> int:
    """How many of the `n_genes` genes with the highest attention are among those with the highest expression."""
    known = np.flatnonzero(np.isfinite(attention) & np.isfinite(expression))
    tops = [known[np.argsort(-scores[known], kind="stable")[:n_genes]] for scores in (attention, expression)]
    return len(np.intersect1d(*tops))


def rank_correlation(attention: np.ndarray, expression: np.ndarray) -> float:
    """Spearman's correlation over the genes that have both; NaN for fewer than three genes or constant values."""
    known = np.isfinite(attention) & np.isfinite(expression)
    one, other = attention[known], expression[known]
    if len(one) < MIN_GENES or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(spearmanr(one, other).statistic)
