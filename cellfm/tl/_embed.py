"""`cf.tl.embed`: embeddings of cells."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from anndata import AnnData
from mudata import MuData

from cellfm.cells.fingerprint import tie
from cellfm.cells.input import read_input, refuse_empty
from cellfm.cells.input_options import InputOptions
from cellfm.cells.outputs import require_keys, writing
from cellfm.cells.select import select
from cellfm.errors import InputError
from cellfm.genes.match import MIN_KNOWN_GENES
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.io.messages import counted_of, warn
from cellfm.keys import EMBED
from cellfm.model import CellFM, resolve_model
from cellfm.model._embed import embed_known_cells
from cellfm.model._embedding_checkpoint import EmbeddingCheckpoint


@shared_docs
@checked
def embed(
    data: AnnData | MuData,
    model: str | Path | CellFM = "mini",
    *,
    layer: str | None = None,
    values_layer: str | None = None,
    modality: str = "rna",
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    key_added: str = EMBED.obsm,
    batch_size: int | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
    empty_cells: Literal["nan", "error"] = "nan",
    random_state: int = 0,
    checkpoint: str | Path | None = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Embed each cell with CellFM.

    Cells are turned into tokens (one for each expressed gene that the model knows), run through the network, and the
    output for the CLS token is kept (Zeng 2025, Methods). The embedding of a cell depends only on that cell: not on the
    other cells, their order, or `batch_size`. Backed data are read in blocks and never loaded completely. If the
    counts are in a Dask array and a Dask cluster is active, its workers embed the blocks.

    Parameters
    ----------
    data
        Counts, cells x genes; gene symbols or Ensembl ids in `var_names` or one of the usual columns of `var`. With
        MuData, those of the table `modality`.
    {model}
    {layer}
    values_layer
        Layer with values that you normalised yourself (finite, not negative; ``"X"`` means X); they replace log1p of
        counts per 10,000. The matrix of `layer` then only says which genes a cell expresses.
    {modality}
    {gene_key}
    {hgnc}
    key_added
        Key of the embedding in `obsm`.
    {batch_size}
    {min_known_genes}
    empty_cells
        What to do with cells that express no known gene: ``"nan"`` gives them NaN with a warning, ``"error"`` raises an
        error.
    random_state
        Seed of the sample of genes that is drawn from cells with more genes than the model takes (`mini`: 16,384; `80M`
        and `800M`: 2,048).
    checkpoint
        Folder in which finished cells are saved in pieces of 8,192. After a crash the same call continues from there,
        and gives exactly the same result. The folder is not removed at the end.
    {copy}

    Returns
    -------
    None, or the copy. Sets:

    `obsm["X_cellfm"]`
        float32, (n_obs, d_model): the embeddings, in the order of the cells.
    `uns["cellfm"]["X_cellfm"]`
        dict: model, hashes of weights and vocabulary, genes matched, seed, version, and ``fingerprints``, one number
        for each cell, from which other tools see whether the embedding still belongs to the cell's counts.

    Raises
    ------
    InputError
        There are no counts (the message says what was found and where counts may be), too few known genes, values that
        are negative or not finite, no cells or no genes; or `checkpoint` belongs to another embedding.
    MissingKeyError
        There is no such layer, modality or column; the message lists the available ones.

    Examples
    --------
    >>> cf.tl.embed(adata)
    >>> adata.obsm["X_cellfm"].shape
    (200, 256)
    >>> sc.pp.neighbors(adata, use_rep="X_cellfm")
    """
    if empty_cells not in ("nan", "error"):
        raise InputError(f"empty_cells must be 'nan' or 'error', not {empty_cells!r}.")
    adata = select(data, modality, copy=copy)
    require_keys(adata, "key_added", obsm=key_added)
    loaded = resolve_model(model)
    cells = read_input(
        adata,
        loaded.vocab,
        InputOptions(
            layer=layer, values_layer=values_layer, gene_key=gene_key, hgnc=hgnc, min_known_genes=min_known_genes
        ),
    )
    if empty_cells == "error":
        refuse_empty(cells)

    if checkpoint is None:
        embedding, fingerprints = embed_known_cells(loaded, cells, batch_size=batch_size, random_state=random_state)
    else:
        pieces = EmbeddingCheckpoint(checkpoint, loaded, cells, random_state)
        pieces.compute(batch_size=batch_size)
        embedding, fingerprints = pieces.joined()
    facts = cells.facts(loaded, random_state)
    return write_embedding(data, embedding, fingerprints, facts, key_added=key_added, modality=modality, copy=copy)


def write_embedding(
    data: AnnData | MuData,
    embedding: np.ndarray,
    fingerprints: np.ndarray,
    facts: Mapping[str, Any],
    *,
    key_added: str,
    modality: str,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Write the embeddings of all cells and the record of their run, as `embed` does."""
    n_empty = int(np.isnan(embedding[:, 0]).sum())
    if n_empty:
        said = counted_of(n_empty, len(embedding), "cell", "expresses", "express")
        warn(f"{said} no gene that the model knows: the embedding there is NaN.")
    with writing(data, modality=modality, copy=copy) as out:
        out.adata.obsm[key_added] = embedding
        fingerprint = {EMBED.fingerprints: tie(fingerprints, embedding)}
        out.record(key_added, "obsm", n_empty_cells=n_empty, **facts, **fingerprint)
    logger.info("added obsm[%r] (%d x %d) and uns['cellfm'][%r].", key_added, *embedding.shape, key_added)
    return out.returned
