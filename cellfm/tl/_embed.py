"""`cf.tl.embed`: cells to embeddings."""

from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from cellfm._adata import Matrix, copied, read_matrix, record_run, require_counts, select, warn
from cellfm._genes import MIN_KNOWN_GENES, GeneMatch, find_genes, require_genes
from cellfm._logging import logger
from cellfm._progress import progress
from cellfm.config import ModelConfig
from cellfm.data import TokenBatch, describe, tokenize
from cellfm.errors import InputError
from cellfm.keys import EMBED
from cellfm.model import CellFM, Encoded, resolve_model
from cellfm.vocab import Vocabulary


class Encoder(Protocol):
    """What embedding needs of a model."""

    config: ModelConfig
    vocab: Vocabulary

    def encode(self, batch: TokenBatch, *, batch_size: int | None = None) -> Encoded: ...


def embed(
    data: AnnData | MuData,
    model: str | Path | CellFM = "mini",
    *,
    layer: str | None = None,
    values_layer: str | None = None,
    modality: str = "rna",
    gene_key: str | None = None,
    key_added: str = EMBED.obsm,
    batch_size: int | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
    empty_cells: Literal["nan", "error"] = "nan",
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Embed each cell with CellFM.

    Cells are turned into tokens (one for each expressed gene that the model knows), run through the network, and the
    output for the CLS token is kept (Zeng 2025, Methods). The result of a cell depends on that cell alone: not on
    the other cells, their order, or `batch_size`. Backed data are read in blocks and never held whole.

    Parameters
    ----------
    data
        Counts, cells x genes; gene symbols or Ensembl ids in `var_names` or one of the usual columns of `var`. With
        MuData, the table `modality`.
    model
        A model, its name (``"mini"``, ``"80M"``, ``"800M"``) or its path; see `cf.load_model`.
    layer
        Layer with the counts; ``"raw"`` means `adata.raw`; by default X.
    values_layer
        Layer of values that you normalised yourself (finite, not negative; ``"X"`` means X), to take in place of
        log1p of counts per 10,000. The matrix of `layer` then only says which genes a cell expresses.
    modality
        Table of a MuData.
    gene_key
        Column of `var` with the gene names, where the automatic choice is wrong.
    key_added
        Where the embedding goes in `obsm`.
    batch_size
        Cells computed at once; by default as many as is fast. Smaller needs less memory; the result is the same.
    min_known_genes
        Least number of genes that the model must know.
    empty_cells
        What to do with cells that express no known gene: ``"nan"`` gives them NaN and warns, ``"error"`` stops.
    random_state
        Seed for the choice among the genes of cells that express more than the model takes (2,048).
    copy
        Return a copy instead of writing to `data`.

    Returns
    -------
    None, or the copy. Sets:

    `obsm["X_cellfm"]`
        float32, (n_obs, d_model): the embeddings, in the order of the cells.
    `uns["cellfm"]["X_cellfm"]`
        dict: model, hashes of weights and vocabulary, genes matched, seed, version.

    Raises
    ------
    InputError
        No counts (the message says what was found and where counts may be), too few known genes, values that are
        not finite or negative, no cells, no genes.
    MissingKeyError
        No such layer, modality or column; the message lists those there are.

    Examples
    --------
    >>> import cellfm as cf, scanpy as sc
    >>> adata = sc.read_h5ad("cells.h5ad")  # doctest: +SKIP
    >>> cf.tl.embed(adata)  # doctest: +SKIP
    >>> sc.pp.neighbors(adata, use_rep="X_cellfm")  # doctest: +SKIP
    """
    if empty_cells not in ("nan", "error"):
        raise InputError(f"empty_cells must be 'nan' or 'error', not {empty_cells!r}.")
    adata = select(data, modality)
    counts = read_matrix(adata, layer)
    values = None if values_layer is None else _own_values(adata, values_layer, counts)
    if values is None:
        require_counts(counts, adata)
    loaded = resolve_model(model)
    match = find_genes(counts.var, loaded.vocab, gene_key=gene_key)
    _check_genes(match, loaded.vocab, counts, min_known_genes, summed=values is None)
    if empty_cells == "error":
        _refuse_empty(counts, match.ids)

    embedding = embed_cells(loaded, counts, match.ids, values=values, batch_size=batch_size, random_state=random_state)
    n_empty = int(np.isnan(embedding[:, 0]).sum())
    if n_empty:
        warn(f"{n_empty:,} of {adata.n_obs:,} cells express no gene that the model knows; their embedding is NaN.")
    result = copied(data) if copy else data
    adata = select(result, modality)
    adata.obsm[key_added] = embedding
    record_run(
        adata,
        key_added,
        model=loaded.name,
        weights_sha256=loaded.weights_hash,
        vocabulary_sha256=loaded.vocab.hash,
        matrix=counts.name,
        values=None if values is None else values.name,
        genes=match.column,
        n_genes_matched=match.n_distinct,
        n_genes=len(match.ids),
        n_empty_cells=n_empty,
        random_state=random_state,
    )
    logger.info("added obsm[%r] (%d x %d) and uns['cellfm'][%r].", key_added, *embedding.shape, key_added)
    return result if copy else None


def embed_cells(
    model: Encoder,
    counts: Matrix,
    gene_ids: np.ndarray,
    *,
    values: Matrix | None = None,
    batch_size: int | None = None,
    random_state: int = 0,
) -> np.ndarray:
    """Embeddings of all cells of a matrix, (n_cells, d_model) float32, read and computed block by block."""
    embedding = np.empty((counts.n_cells, model.config.d_model), np.float32)
    with progress(counts.n_cells, "embedding", "cells") as bar:
        for span, block in counts.blocks():
            _check_block(block, counts.name, whole=values is None)
            own = None if values is None else _block_values(values, span)
            tokens = tokenize(block, gene_ids, max_genes=model.config.max_genes, random_state=random_state, values=own)
            embedding[span] = model.encode(tokens, batch_size=batch_size).cell
            bar.update(block.shape[0])
    return embedding


def _own_values(adata: AnnData, values_layer: str, counts: Matrix) -> Matrix:
    values = read_matrix(adata, values_layer)
    if values.values.shape != counts.values.shape:
        raise InputError(
            f"{values.name} has the shape {values.values.shape}, {counts.name} {counts.values.shape}: they must agree."
        )
    for matrix in (values, counts):
        found = matrix.describe()
        if found.kind in ("negative", "not finite", "empty"):
            raise InputError(f"{matrix.name} has {found}; with values_layer= it must be finite and not negative.")
    return values


def _check_genes(match: GeneMatch, vocab: Vocabulary, counts: Matrix, least: int, *, summed: bool) -> None:
    require_genes(match, vocab, least, counts.name.removesuffix(".X") + ".var" if "raw" in counts.name else "adata.var")
    n_vars = len(match.ids)
    if match.n_matched < n_vars / 2:
        warn(
            f"The model knows {match.n_matched:,} of {n_vars:,} genes ({match.n_matched / n_vars:.0%}); the others are "
            "left out. cf.pp.check(adata) shows which they are and how many counts they hold."
        )
    n_repeated = match.n_matched - match.n_distinct
    if n_repeated and not summed:
        raise InputError(
            f"{n_repeated:,} genes occur more than once, and values of values_layer= cannot be added up. Make the "
            "genes unique first."
        )
    if n_repeated:
        warn(f"{n_repeated:,} genes occur more than once under the same name or id; their counts are added up.")


def _refuse_empty(counts: Matrix, gene_ids: np.ndarray) -> None:
    known = (gene_ids > 0).astype(np.float32)
    empty = [span.start + np.flatnonzero(block @ known == 0) for span, block in counts.blocks()]
    cells = np.concatenate(empty)
    if len(cells):
        raise InputError(
            f"{len(cells):,} of {counts.n_cells:,} cells express no gene that the model knows (the first is cell "
            f"{cells[0]:,}). Remove them, or pass empty_cells='nan'."
        )


def _check_block(block: sp.csr_matrix, name: str, *, whole: bool) -> None:
    """Look at all values of data on disk too, of which only a sample was checked before the start."""
    found = describe(block.data)
    allowed = ("counts", "empty") if whole else ("counts", "empty", "normalised", "log-normalised")
    if found.kind not in allowed:
        raise InputError(f"{name} has {found}. Nothing was written.")


def _block_values(values: Matrix, span: slice) -> sp.csr_matrix | np.ndarray:
    block = values.values[span.start : span.stop] if values.in_memory else values.rows(span.start, span.stop)
    _check_block(sp.csr_matrix(block), values.name, whole=False)
    return block
