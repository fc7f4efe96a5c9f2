"""`cf.tl.attention`: which genes CLS, or a gene, reads."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from anndata import AnnData
from mudata import MuData

from cellfm._adata import cell_groups, copied, record_run, select
from cellfm._encode import read_cells_for
from cellfm._genes import MIN_KNOWN_GENES
from cellfm._logging import logger
from cellfm.errors import InputError, MissingKeyError
from cellfm.keys import ATTENTION
from cellfm.model import CellFM, resolve_model
from cellfm.tasks.genes import cls_scores, gene_scores, mean_scores


def attention(
    data: AnnData | MuData,
    model: str | Path | CellFM = "mini",
    *,
    groupby: str | None = None,
    readers: Sequence[str] = (),
    attention_layer: int = -1,
    min_cells: int = 1,
    layer: str | None = None,
    modality: str = "rna",
    gene_key: str | None = None,
    hgnc: str | Path | None = None,
    key_added: str = ATTENTION.varm,
    batch_size: int | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Read the attention of the network: how much the cell token, or chosen genes, read each gene.

    Linear attention has no softmax map. The score from a reader i to a gene j is ``Q_i . K_j`` in each head; within a
    cell the genes are ranked by it, ranks scaled to 0 (least) to 1 (most) and averaged over the heads (Zeng 2025,
    "Attention map"). Rows of what is written give (are read), columns receive (read).

    Parameters
    ----------
    data
        Counts, cells x genes. With MuData, the table `modality`.
    model
        A model, its name or its path; see `cf.load_model`.
    groupby
        Column of `obs`: means by group of cells; by default one mean over all cells, called ``all``.
    readers
        Genes (by `var_names`) whose own reading of the other genes is computed too.
    attention_layer
        Layer that is read, from 0; negative ones count from the last.
    min_cells
        Means over fewer cells are NaN.
    layer
        Layer of `data` with the counts; by default X.
    modality
        Table of a MuData.
    gene_key
        Column of `var` with the gene names, where the automatic choice is wrong.
    hgnc
        Table of previous symbols and aliases, as for `cf.tl.embed`.
    key_added
        Where the means go in `varm`.
    batch_size
        Cells computed at once; the result is the same.
    min_known_genes
        Least number of genes that the model must know.
    random_state
        Seed for the choice among the genes of cells that express more than the model takes.
    copy
        Return a copy instead of writing to `data`.

    Returns
    -------
    None, or the copy. Sets:

    `varm["cellfm_attention"]`
        float32, (n_vars, n_groups): mean score of CLS for each gene over the cells of a group that express it, NaN
        where too few do. For each of `readers` also ``varm["cellfm_attention_<gene>"]``, over the cells that express
        both.
    `uns["cellfm"]["cellfm_attention"]`
        dict: ``groups`` (the columns), layer, model, hashes, seed, version.

    Raises
    ------
    InputError
        No counts, too few known genes, one group only, no such layer of the network, a reader that the model does not
        know.
    MissingKeyError
        No such layer, modality, column or reader.

    Examples
    --------
    >>> cf.tl.attention(adata, groupby="cell_type", readers=["CD74"])
    >>> list(adata.varm)
    ['cellfm_attention', 'cellfm_attention_CD74']
    """
    if layer == "raw":
        raise InputError("adata.raw has genes of its own, which varm does not: call adata.raw.to_adata() first.")
    adata = select(data, modality)
    names, groups = (["all"], np.zeros(adata.n_obs, int)) if groupby is None else cell_groups(adata, groupby)
    loaded = resolve_model(model)
    cells = read_cells_for(
        adata, loaded.vocab, layer=layer, gene_key=gene_key, hgnc=hgnc, min_known_genes=min_known_genes
    )
    ids = cells.match.ids
    reader_ids = {gene: _known(gene, adata, ids) for gene in readers}
    how = {"layer": attention_layer, "batch_size": batch_size, "random_state": random_state}
    found = {}
    for key, blocks in (
        (key_added, cls_scores(loaded, cells, **how)),
        *((f"{key_added}_{gene}", gene_scores(loaded, cells, i, **how)) for gene, i in reader_ids.items()),
    ):
        means, number = mean_scores(blocks, groups, len(names), len(loaded.vocab) + 1)
        means[number < min_cells] = np.nan
        found[key] = means[:, ids].T.astype(np.float32)
    result = copied(data) if copy else data
    adata = select(result, modality)
    for key, means in found.items():
        adata.varm[key] = means
    facts = cells.facts(loaded, random_state) | {"groupby": groupby, "attention_layer": attention_layer}
    record_run(adata, key_added, **facts, **{ATTENTION.groups: np.array(names)})
    logger.info("added varm[%s] (%d genes, %d groups).", ", ".join(map(repr, found)), adata.n_vars, len(names))
    return result if copy else None


def _known(gene: str, adata: AnnData, ids: np.ndarray) -> int:
    if gene not in adata.var_names:
        raise MissingKeyError(f"The reader {gene!r} is not in var_names.")
    found = int(ids[adata.var_names.get_loc(gene)])
    if not found:
        raise InputError(f"The model does not know the reader {gene!r}.")
    return found
