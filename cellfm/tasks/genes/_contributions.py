"""Contributions of genes to the embeddings of cells along directions, and effects of deleting genes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cellfm.cells.input import CellInput
from cellfm.cells.tokenize import TokenBatch
from cellfm.errors import InputError
from cellfm.io.progress import progress
from cellfm.model import CellFM
from cellfm.tasks.genes._attention import BLOCK_CELLS

CONTRIBUTION, EXPRESSION, NUMBER = 0, 1, 2
"""Places of `mean_contributions`."""


@dataclass(frozen=True)
class Contrast:
    """A group of cells, the cells of the comparison, and a direction in the space of embeddings."""

    name: str
    cells: np.ndarray
    """(n_cells,) bool."""
    others: np.ndarray
    """(n_cells,) bool; all False without a comparison."""
    direction: np.ndarray
    """(d_model,) float32, of length 1."""


def contrasts(
    embedding: np.ndarray,
    groups: np.ndarray,
    names: Sequence[str],
    chosen: Sequence[str],
    reference: str | None,
    direction: np.ndarray | None,
) -> list[Contrast]:
    """A contrast for each of the `chosen` groups: with the cells of `reference`, or with all others where it is None.

    The direction is the mean of the group's embeddings, each of length 1, minus that of the others, unless it is given.
    Cells without an embedding belong to no group.

    Raises
    ------
    InputError
        A group has no embedded cells, or the same mean as the others.
    """
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    groups = np.where(np.isfinite(embedding).all(1), groups, -1)
    found = []
    for name in chosen:
        members = groups == names.index(name)
        others = (groups >= 0) & ~members if reference is None else groups == names.index(reference)
        if not members.any() or (direction is None and not others.any()):
            raise InputError(f"{name!r}, or its reference, has no cell with a gene that the model knows.")
        along = direction
        if along is None:
            along = unit[members].mean(0, dtype=float) - unit[others].mean(0, dtype=float)
        if not (length := np.linalg.norm(along)):
            raise InputError(
                f"The embeddings of {name!r} equal those of the other cells on average, so there is no direction."
            )
        found.append(Contrast(name, members, others, (along / length).astype(np.float32)))
    return found


def mean_contributions(
    model: CellFM,
    cells: CellInput,
    compared: Sequence[Contrast],
    *,
    layer: int,
    batch_size: int | None = None,
    random_state: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Means over the cells of each contrast's group and over those of its others; cells without a gene count as 0.

    Returns
    -------
    (n_contrasts, 2, 3, n_genes + 1) by gene: contribution, expression as the network sees it, and the number of cells
    that express the gene; (n_contrasts, 2): what CLS takes from itself. NaN where there are no others.
    """
    n_rows, directions = len(model.vocab) + 1, np.stack([contrast.direction for contrast in compared])
    of_genes, of_cls = np.zeros((len(compared), 2, 3, n_rows)), np.zeros((len(compared), 2))
    with progress(cells.counts.n_cells, "reading contributions", "cells") as bar:
        for span, batch in cells.tokens(model.config.max_genes, random_state, n_cells=BLOCK_CELLS):
            found = model.contributions(batch, directions, layer=layer, batch_size=batch_size)
            for i, contrast in enumerate(compared):
                for side, chosen in enumerate((contrast.cells[span], contrast.others[span])):
                    at = np.flatnonzero(np.repeat(chosen, batch.lengths))
                    for sums, weights in zip(
                        of_genes[i, side], (found.genes[at, i], batch.values[at], None), strict=True
                    ):
                        sums += np.bincount(batch.gene_ids[at], weights, n_rows)
                    of_cls[i, side] += found.cls[chosen, i].sum(dtype=float)
            bar.update(batch.n_cells)
    sizes = np.array([(contrast.cells.sum(), contrast.others.sum()) for contrast in compared])
    with np.errstate(invalid="ignore"):
        of_genes[:, :, :NUMBER] /= sizes[..., None, None]
        return of_genes, of_cls / sizes


def deletion_effects(
    model: CellFM,
    cells: CellInput,
    embedding: np.ndarray,
    contrast: Contrast,
    gene_ids: np.ndarray,
    *,
    batch_size: int | None = None,
    random_state: int = 0,
) -> np.ndarray:
    """How far the token of each gene moves the embeddings of a contrast's group along its direction, (len(gene_ids),).

    The embedding minus that without the token; mean over the cells of the group, where cells without it count as 0.
    """
    effects = np.zeros(len(gene_ids))
    with progress(cells.counts.n_cells, f"deleting {len(gene_ids)} genes", "cells") as bar:
        for span, batch in cells.tokens(model.config.max_genes, random_state, n_cells=BLOCK_CELLS):
            for i, gene_id in enumerate(gene_ids):
                chosen, rest = without_gene(batch, contrast.cells[span], int(gene_id))
                if len(chosen):
                    deleted = model.encode(rest, batch_size=batch_size).cell
                    moved = (embedding[span][chosen] - deleted) @ contrast.direction
                    effects[i] += np.nansum(moved, dtype=float)  # cells that express nothing else have no tokens left
            bar.update(batch.n_cells)
    return effects / contrast.cells.sum()


def without_gene(batch: TokenBatch, chosen: np.ndarray, gene_id: int) -> tuple[np.ndarray, TokenBatch]:
    """The `chosen` cells, (n_cells,) bool, that express a gene, by number, and their other tokens."""
    of_token = np.repeat(np.arange(batch.n_cells), batch.lengths)
    is_gene = batch.gene_ids == gene_id
    cells = of_token[is_gene & chosen[of_token]]
    kept = np.flatnonzero(np.isin(of_token, cells) & ~is_gene)
    indptr = np.concatenate(([0], np.cumsum(batch.lengths[cells] - 1)))
    depth = None if batch.depth is None else batch.depth[cells]
    return cells, TokenBatch(indptr, batch.gene_ids[kept], batch.values[kept], depth)
