"""`cf.tl.attention`: which genes the cell token, or a gene, attends to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.input import read_input
from cellfm.cells.input_options import InputOptions
from cellfm.cells.obs import cell_groups
from cellfm.cells.outputs import require_keys, writing
from cellfm.cells.select import select
from cellfm.errors import InputError, MissingKeyError
from cellfm.genes.match import MIN_KNOWN_GENES
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.keys import ATTENTION
from cellfm.model import CellFM, resolve_model
from cellfm.tasks.genes import (
    ATTENTION_SCORE,
    EXPRESSION_SCORE,
    cls_scores,
    gene_scores,
    layer_facts,
    mean_scores,
    n_shared_at_top,
    pick_layer,
    rank_correlation,
)

CLS = "CLS"
N_TOP = 20
"""Genes with the highest scores, compared with those that are expressed most."""


@shared_docs
@checked
def attention(
    data: AnnData | MuData,
    model: str | Path | CellFM = "mini",
    *,
    groupby: str | None = None,
    readers: Sequence[str] = (),
    attention_layer: int | None = None,
    min_cells: int = 1,
    layer: str | None = None,
    modality: str = "rna",
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    key_added: str = ATTENTION.varm,
    batch_size: int | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Score how much the cell token (CLS), or chosen genes, attend to each gene.

    Linear attention has no softmax map. The score from a reader i to a gene j is ``Q_i . K_j`` in each head. Within
    each cell the genes are ranked by this score; ranks are scaled from 0 (lowest) to 1 (highest) and averaged over the
    heads (Zeng 2025, "Attention map"). A reader *reads* the genes that it attends to.

    This ranking may merely repeat expression. With ``"mini"`` it nearly does, because the keys of its only active layer
    are built to grow with a token's value. The tool therefore also writes a control, the genes ranked within the same
    cells by expression alone, and the rank correlation of the two. Attention adds information only where it differs
    from the control.

    Which genes tell a group from others is read better by `cf.tl.gene_contributions`, along a direction. With
    ``"mini"`` it found published markers of blood cells with AUROC 0.84, 0.97 and 0.99 on three sets, attention with
    0.74, 0.71 and 0.83, and the specificity of expression alone with 0.85, 0.96 and 0.98
    (``benchmarks/contributions.md``).

    Parameters
    ----------
    data
        Counts, cells x genes. With MuData, the table `modality`.
    {model}
    groupby
        Column of `obs` with groups of cells to average over; by default one mean over all cells, called ``all``.
    readers
        Genes (by `var_names`) whose attention to the other genes is computed too.
    {attention_layer}
    min_cells
        Means over fewer cells become NaN.
    {layer_of_data}
    {modality}
    {gene_key}
    {hgnc}
    key_added
        Where the means go in `varm`.
    {batch_size}
    {min_known_genes}
    {sample_seed}
    {copy}

    Returns
    -------
    None, or the copy. Sets:

    `varm["cellfm_attention"]`
        float32, (n_vars, n_groups): mean score from CLS to each gene, over the cells of a group that express the gene;
        NaN if too few do. For each of `readers` also ``varm["cellfm_attention_<gene>"]``, over the cells that express
        both.
    `varm["cellfm_attention_expression"]`
        float32, (n_vars, n_groups): the control, the same means of ranks by expression; for each of `readers` also
        ``varm["cellfm_attention_<gene>_expression"]``, over the same cells.
    `uns["cellfm"]["cellfm_attention"]`
        dict: ``groups`` (the columns), ``attention_layer`` (the layer that was read, counted from 0),
        ``active_layers``, ``expression_correlation`` (DataFrame: ``reader``, ``group``, ``spearman``, the rank
        correlation of attention with the control over the genes, and ``n_shared``, how many of the 20 genes with the
        highest score are among the 20 most expressed genes), model, hashes, seed, version.

    Raises
    ------
    InputError
        No counts, too few known genes, only one group, no such layer of the network, an inactive layer (the message
        lists the active ones), a model without active layers, a reader that the model does not know.
    MissingKeyError
        No such layer, modality, column or reader.

    Examples
    --------
    >>> cf.tl.attention(adata, groupby="cell_type", readers=["CD74"])
    >>> list(adata.varm)[:2]
    ['cellfm_attention', 'cellfm_attention_expression']
    >>> adata.uns["cellfm"]["cellfm_attention"]["expression_correlation"]
    """
    if layer == "raw":
        raise InputError("adata.raw has other genes than varm: call adata.raw.to_adata() first.")
    adata = select(data, modality, copy=copy)
    require_keys(adata, "key_added", varm=[key_added, *(f"{key_added}_{gene}" for gene in readers)])
    names, groups = (["all"], np.zeros(adata.n_obs, int)) if groupby is None else cell_groups(adata, groupby)
    loaded = resolve_model(model)
    network_layer = pick_layer(loaded, attention_layer)
    options = InputOptions(layer=layer, gene_key=gene_key, hgnc=hgnc, min_known_genes=min_known_genes)
    cells = read_input(adata, loaded.vocab, options)
    ids = cells.match.ids
    reader_ids = {gene: _known(gene, adata, ids) for gene in readers}
    how: dict[str, Any] = {"layer": network_layer, "batch_size": batch_size, "random_state": random_state}
    written, correlations = {}, []
    for reader, key, blocks in (
        (CLS, key_added, cls_scores(loaded, cells, **how)),
        *((gene, f"{key_added}_{gene}", gene_scores(loaded, cells, i, **how)) for gene, i in reader_ids.items()),
    ):
        means, number = mean_scores(blocks, groups, len(names), len(loaded.vocab) + 1)
        means[:, number < min_cells] = np.nan
        written[key] = means[ATTENTION_SCORE][:, ids].T.astype(np.float32)
        written[f"{key}_expression"] = means[EXPRESSION_SCORE][:, ids].T.astype(np.float32)
        correlations += [
            (reader, name, rank_correlation(attention, expression), n_shared_at_top(attention, expression, N_TOP))
            for name, (attention, expression) in zip(names, means.swapaxes(0, 1), strict=True)
        ]
    with writing(data, modality=modality, copy=copy) as out:
        for key, means in written.items():
            out.adata.varm[key] = means
        table = pd.DataFrame(correlations, columns=["reader", "group", "spearman", "n_shared"])
        facts = cells.facts(loaded, random_state) | layer_facts(loaded, network_layer) | {"groupby": groupby}
        out.record(key_added, "varm", **facts | {ATTENTION.groups: np.array(names), ATTENTION.correlation: table})
    logger.info(
        "read layer %d; added varm[%s] (%d genes, %d groups). Of the %d genes read most, %d to %d are expressed most.",
        network_layer,
        ", ".join(map(repr, written)),
        out.adata.n_vars,
        len(names),
        N_TOP,
        table["n_shared"].min(),
        table["n_shared"].max(),
    )
    return out.returned


def _known(gene: str, adata: AnnData, ids: np.ndarray) -> int:
    if gene not in adata.var_names:
        raise MissingKeyError(f"The reader {gene!r} is not in var_names.")
    found = int(ids[adata.var_names.get_loc(gene)])
    if not found:
        raise InputError(f"The model does not know the reader {gene!r}.")
    return found
