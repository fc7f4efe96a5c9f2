"""`cf.tl.embed_genes`: embeddings of genes."""

from pathlib import Path
from typing import Literal

import numpy as np
from anndata import AnnData
from mudata import MuData

from cellfm.cells.input import read_input
from cellfm.cells.input_options import InputOptions
from cellfm.cells.obs import cell_groups
from cellfm.cells.outputs import as_keys, require_keys, writing
from cellfm.cells.select import select
from cellfm.errors import InputError
from cellfm.genes.match import MIN_KNOWN_GENES
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.io.messages import counted_of, warn
from cellfm.keys import GENE_EMBEDDING
from cellfm.model import CellFM, resolve_model
from cellfm.tasks._gene_embedding import contextual_means, static_embedding


@shared_docs
@checked
def embed_genes(
    data: AnnData | MuData,
    model: str | Path | CellFM = "mini",
    *,
    kind: Literal["static", "contextual"] = "static",
    groupby: str | None = None,
    min_cells: int = 1,
    layer: str | None = None,
    modality: str = "rna",
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    key_added: str = GENE_EMBEDDING.varm,
    batch_size: int | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Embed each gene with CellFM.

    Parameters
    ----------
    data
        Counts, cells x genes; gene symbols or Ensembl ids in `var_names` or one of the usual columns of `var`. With
        MuData, the table `modality`.
    {model}
    kind
        ``"static"`` takes the rows of the model's gene table, which do not depend on cells. ``"contextual"`` takes the
        mean of a gene's token output over the cells that express it (Zeng 2025, "Gene-gene relationships"); cells are
        processed block by block, so memory does not grow with their number.
    groupby
        Column of `obs` with groups of cells. Each group also gets its own contextual embeddings, in
        ``varm["cellfm_<group>"]``.
    min_cells
        Contextual embeddings of genes that fewer cells express are NaN.
    layer
        Layer with the counts; by default X.
    {modality}
    {gene_key}
    {hgnc}
    key_added
        Key of the embedding in `varm`.
    {batch_size}
    {min_known_genes}
    {sample_seed}
    {copy}

    Returns
    -------
    None, or the copy. Sets:

    `varm["cellfm"]`
        float32, (n_vars, d_model): one embedding for each gene, NaN for genes that are unknown or not expressed. With
        `groupby` also ``varm["cellfm_<group>"]`` for each group (slashes in its name become bars).
    `uns["cellfm"]["cellfm"]`
        dict: model, hashes, kind, genes matched, ``groups`` where there are any, seed, version.

    Raises
    ------
    InputError
        No counts, too few known genes, `groupby` with one group or with ``kind="static"``.
    MissingKeyError
        There is no such layer, modality or column; the message lists the available ones.

    Examples
    --------
    >>> cf.tl.embed_genes(adata, kind="contextual", groupby="cell_type")
    >>> list(adata.varm)
    """
    if kind not in ("static", "contextual"):
        raise InputError(f"kind must be 'static' or 'contextual', not {kind!r}.")
    if layer == "raw":
        raise InputError("adata.raw has other genes than varm: call adata.raw.to_adata() first.")
    adata = select(data, modality, copy=copy)
    names, codes = _groups(adata, kind, groupby)
    require_keys(adata, "key_added", varm=[key_added, *(f"{key_added}_{name}" for name in names)])
    loaded = resolve_model(model)
    options = InputOptions(layer=layer, gene_key=gene_key, hgnc=hgnc, min_known_genes=min_known_genes)
    cells = read_input(adata, loaded.vocab, options)
    ids = cells.match.ids
    if kind == "static":
        found = {key_added: static_embedding(loaded, ids)}
    else:
        means = contextual_means(loaded, cells, codes, len(names) + 1, batch_size=batch_size, random_state=random_state)
        by_group = means.mean[:, ids]
        by_group[means.n_cells[:, ids] < min_cells] = np.nan
        found = {f"{key_added}_{name}": by_group[i] for i, name in enumerate(names)}
        overall = means.overall()[ids]
        overall[means.n_cells.sum(0)[ids] < min_cells] = np.nan
        found[key_added] = overall
    n_without = int(np.isnan(found[key_added][:, 0]).sum())
    if n_without > len(ids) / 2:
        said = counted_of(n_without, len(ids), "gene", "has", "have")
        warn(f"{said} no embedding: unknown to the model, or in too few cells.")
    with writing(data, modality=modality, copy=copy) as out:
        for key, rows in found.items():
            out.adata.varm[key] = rows
        facts = cells.facts(loaded, random_state) | {"kind": kind, "groupby": groupby}
        out.record(key_added, "varm", **facts, **({GENE_EMBEDDING.groups: np.array(names)} if names else {}))
    logger.info("added varm[%s] (%d x %d).", ", ".join(map(repr, found)), *found[key_added].shape)
    return out.returned


def _groups(adata: AnnData, kind: str, groupby: str | None) -> tuple[list[str], np.ndarray]:
    """Names of the groups (none without `groupby`) and the group of each cell; cells without a group get the number
    after the last.
    """
    if groupby is None:
        return [], np.zeros(adata.n_obs, int)
    if kind == "static":
        raise InputError("groupby= needs kind='contextual': static embeddings do not depend on cells.")
    names, codes = cell_groups(adata, groupby)
    return as_keys(names), np.where(codes < 0, len(names), codes)
