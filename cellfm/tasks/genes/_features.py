"""Features to compare genes: stored embeddings, or expression over the cells."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from cellfm.cells.counts import require_counts
from cellfm.cells.matrix import read_matrix
from cellfm.errors import InputError, MissingKeyError
from cellfm.io.messages import counted, counted_of
from cellfm.tasks._expression import log_normalised
from cellfm.tasks.genes._graph import standardised_expression

MIN_GENES_OF_GRAPH = 50
"""Minimum number of genes for modules."""
MAX_CELLS = 5000
"""Number of cells for co-expression."""


def gene_table(adata: AnnData, key: str) -> pd.DataFrame:
    """Stored gene embeddings with gene names, including genes without an embedding.

    Raises
    ------
    MissingKeyError
        There are none; the message lists the available ones.
    """
    if key not in adata.varm:
        available = ", ".join(map(str, adata.varm)) or "nothing"
        raise MissingKeyError(f"No varm[{key!r}]; available: {available}. Call cf.tl.embed_genes(adata) first.")
    return pd.DataFrame(np.asarray(adata.varm[key], np.float32), index=adata.var_names)


def expression_summary(adata: AnnData, layer: str | None) -> pd.DataFrame:
    """Mean, share of cells and dispersion of each gene's log-normalised expression: features without a model."""
    counts = require_counts(read_matrix(adata, layer), adata)
    total, squares, cells = np.zeros((3, adata.n_vars))
    for _, block in counts.blocks():
        values = log_normalised(block)
        total += np.asarray(values.sum(0)).ravel()
        squares += np.asarray(values.multiply(values).sum(0)).ravel()
        cells += np.bincount(values.indices[values.data > 0], minlength=adata.n_vars)
    mean = total / adata.n_obs
    variance = np.maximum(squares / adata.n_obs - mean**2, 0)
    columns = {"mean": mean, "detection": cells / adata.n_obs, "dispersion": variance / np.maximum(mean, 1e-9)}
    return pd.DataFrame(columns, index=adata.var_names)[counts.is_gene]


def gene_features(
    adata: AnnData,
    source: Literal["embedding", "coexpression"],
    *,
    embedding_key: str,
    genes: Sequence[str] | str | None,
    min_cells: int,
    layer: str | None,
    random_state: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Genes to compare, as places in `var`, and their features, (n_genes, n_features).

    Raises
    ------
    InputError
        Fewer than 50 genes are left.
    MissingKeyError
        No such embedding, column or genes.
    """
    if source not in ("embedding", "coexpression"):
        raise InputError(f"source must be 'embedding' or 'coexpression', not {source!r}.")
    kept = _chosen(adata, genes)
    if source == "embedding":
        embedding = gene_table(adata, embedding_key).to_numpy()
        kept &= np.isfinite(embedding).all(1) & (embedding != 0).any(1)
    counts = read_matrix(adata, layer)
    if min_cells > 1 or source == "coexpression":
        expressing = np.zeros(adata.n_vars, np.int64)
        for _, block in counts.blocks():
            expressing += np.bincount(block.indices[block.data > 0], minlength=adata.n_vars)
        kept &= expressing >= max(1, min_cells)
    places = np.flatnonzero(kept)
    if len(places) < MIN_GENES_OF_GRAPH:
        raise InputError(
            f"{counted_of(len(places), adata.n_vars, 'gene')} left to compare; at least {MIN_GENES_OF_GRAPH} are "
            f"needed. Lower min_cells ({min_cells}), or use more genes."
        )
    if source == "embedding":
        return places, embedding[places]
    counts = require_counts(counts, adata)
    generator = np.random.default_rng(random_state)
    cells = np.sort(generator.permutation(counts.n_cells)[:MAX_CELLS])
    blocks = [block[cells[(cells >= span.start) & (cells < span.stop)] - span.start] for span, block in counts.blocks()]
    return places, standardised_expression(log_normalised(sp.vstack(blocks).tocsr())[:, places])


def _chosen(adata: AnnData, genes: Sequence[str] | str | None) -> np.ndarray:
    if genes is None:
        return np.ones(adata.n_vars, bool)
    if isinstance(genes, str):
        if genes not in adata.var or adata.var[genes].dtype != bool:
            flags = [column for column in adata.var if adata.var[column].dtype == bool]
            raise MissingKeyError(f"No boolean column {genes!r} in var; available: {', '.join(flags) or 'none'}.")
        return adata.var[genes].to_numpy().copy()
    unknown = sorted(set(genes) - set(adata.var_names))
    if unknown:
        number = counted(len(unknown), "gene is", "genes are")
        raise MissingKeyError(f"{number} not in var_names: {', '.join(unknown[:10])}.")
    return np.asarray(adata.var_names.isin(genes))
