"""`cf.tl.attention_partners`: the genes most strongly linked to a perturbed gene by attention."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from cellfm.cells.input import CellInput, read_input
from cellfm.cells.input_options import InputOptions
from cellfm.cells.matrix import Matrix
from cellfm.cells.obs import cell_groups
from cellfm.cells.outputs import require_keys, writing
from cellfm.cells.select import select
from cellfm.errors import InputError, MissingKeyError
from cellfm.genes.match import MIN_KNOWN_GENES
from cellfm.genes.vocabulary import Vocabulary
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.keys import ATTENTION
from cellfm.model import CellFM, resolve_model
from cellfm.tasks.genes import (
    ATTENTION_SCORE,
    EXPRESSION_SCORE,
    gene_scores,
    layer_facts,
    mean_scores,
    n_shared_at_top,
    pick_layer,
    rank_correlation,
)


@shared_docs
@checked
def attention_partners(
    data: AnnData | MuData,
    model: str | Path | CellFM = "mini",
    *,
    genes: Sequence[str],
    groupby: str | None = None,
    control: str | None = None,
    n_genes: int = 20,
    reads: bool = True,
    min_cells: int = 10,
    attention_layer: int | None = None,
    layer: str | None = None,
    modality: str = "rna",
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    key_added: str = ATTENTION.partners,
    batch_size: int | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Rank the genes that attention links to a perturbed gene, using control cells only (Zeng 2025, Fig. 5c).

    The perturbed gene is added to every control cell that does not express it, with one count. The score of another
    gene is its attention score from the token of the perturbed gene, ranked within the cell and averaged over the cells
    (see `cf.tl.attention`). Nothing is learned from perturbed cells, and attention is not causal: treat the list as
    candidates, and compare it with the genes that really change.

    The table includes a control: the same genes ranked within the same cells by expression alone. Where the two
    rankings agree, the list merely shows the most expressed genes, whichever gene was perturbed; with ``"mini"`` this
    is usually the case (see `cf.tl.attention`).

    Parameters
    ----------
    data
        Counts, cells x genes. With MuData, the table `modality`.
    {model}
    genes
        Perturbed genes, by symbol or Ensembl id; they need not be measured, but the model must know them.
    groupby, control
        Column of `obs` with the condition of each cell, and its value for control cells; by default all cells are used.
    n_genes
        Genes to keep for each perturbed gene.
    reads
        True: genes that the perturbed gene reads (its query, their keys). False: genes that read it.
    min_cells
        Genes that are expressed in fewer cells are left out.
    {attention_layer}
    {layer_of_data}
    {modality}
    {gene_key}
    {hgnc}
    key_added
        Where the table goes in `uns`.
    {batch_size}
    {min_known_genes}
    {sample_seed}
    {copy}

    Returns
    -------
    None, or the copy. Sets:

    `uns["cellfm_attention_partners"]`
        DataFrame, a row for each perturbed gene and partner, the strongest first: ``chosen_gene``, ``gene``
        (the partner), ``score`` (0 to 1), ``n_cells``; the control ``expression_score`` (0 to 1) and
        ``expression_rank`` (its rank, 1 for the most expressed).
    `uns["cellfm"]["cellfm_attention_partners"]`
        dict: ``attention_layer`` (the layer that was read, counted from 0), ``active_layers``,
        ``expression_correlation`` (DataFrame by ``chosen_gene``: ``spearman``, the rank correlation of the two scores
        over all genes, and ``n_shared``, how many of the listed genes are among the same number of most expressed
        genes), model, hashes, seed, version.

    Raises
    ------
    InputError
        No control cells; no such layer of the network, an inactive layer (the message lists the active ones), a model
        without active layers.
    MissingKeyError
        The model does not know a perturbed gene; no such layer, modality or column.

    Examples
    --------
    >>> cf.tl.attention_partners(adata, genes=["IRF7"], groupby="condition", control="ctrl", n_genes=3)
    >>> adata.uns["cellfm_attention_partners"]["gene"].tolist()
    """
    if (groupby is None) != (control is None):
        raise InputError("Pass groupby= and control= together: a column and its value for control cells.")
    if layer == "raw":
        raise InputError("adata.raw has other genes than adata: call adata.raw.to_adata() first.")
    adata = select(data, modality, copy=copy)
    require_keys(adata, "key_added", uns=key_added)
    chosen = np.arange(adata.n_obs) if groupby is None else _controls(adata, groupby, str(control))
    loaded = resolve_model(model)
    network_layer = pick_layer(loaded, attention_layer)
    wanted = _ids(genes, loaded.vocab)
    options = InputOptions(layer=layer, gene_key=gene_key, hgnc=hgnc, min_known_genes=min_known_genes)
    cells = read_input(adata, loaded.vocab, options)
    counts = cells.counts.rows(0, adata.n_obs)[chosen]
    tables, correlations = [], []
    for gene, gene_id in wanted.items():
        blocks = gene_scores(
            loaded,
            _with_gene(cells, counts, gene_id),
            gene_id,
            reads=reads,
            layer=network_layer,
            batch_size=batch_size,
            random_state=random_state,
        )
        means, number = mean_scores(blocks, np.zeros(len(chosen), int), 1, len(loaded.vocab) + 1)
        ids = cells.match.ids
        table = pd.DataFrame(
            {
                "chosen_gene": gene,
                "gene": adata.var_names,
                "score": means[ATTENTION_SCORE, 0, ids],
                "n_cells": number[0, ids],
                "expression_score": means[EXPRESSION_SCORE, 0, ids],
            }
        )
        table = table[(ids != gene_id) & (ids > 0) & (number[0, ids] >= min_cells)]
        table["expression_rank"] = table["expression_score"].rank(ascending=False, method="min").astype(int)
        attention, expression = table["score"].to_numpy(), table["expression_score"].to_numpy()
        kept = table.nlargest(n_genes, "score")
        tables.append(kept)
        correlations.append(
            (gene, rank_correlation(attention, expression), n_shared_at_top(attention, expression, n_genes))
        )
    with writing(data, modality=modality, copy=copy) as out:
        out.adata.uns[key_added] = pd.concat(tables, ignore_index=True)
        facts = cells.facts(loaded, random_state) | {"groupby": groupby, "control": control, "reads": reads}
        correlation = pd.DataFrame(correlations, columns=["chosen_gene", "spearman", "n_shared"])
        out.record(key_added, **facts, **layer_facts(loaded, network_layer), **{ATTENTION.correlation: correlation})
    logger.info(
        "read layer %d; added uns[%r]: %d perturbed genes, from %d cells.",
        network_layer,
        key_added,
        len(wanted),
        len(chosen),
    )
    return out.returned


def _controls(adata: AnnData, groupby: str, control: str) -> np.ndarray:
    names, groups = cell_groups(adata, groupby)
    if control not in names:
        raise InputError(f"obs[{groupby!r}] has no {control!r}; available: {', '.join(names[:20])}.")
    return np.flatnonzero(groups == names.index(control))


def _ids(genes: Sequence[str], vocab: Vocabulary) -> dict[str, int]:
    names = np.array(genes, object)
    if not len(names):
        raise InputError("genes= is empty; pass one or more genes.")
    ids = np.maximum(vocab.find_symbols(names), vocab.find_ensembl(names))
    unknown = [str(name) for name in names[ids == 0]]
    if unknown:
        raise MissingKeyError(f"The model does not know {len(unknown)} of the genes: {', '.join(unknown[:10])}.")
    return {str(name): int(i) for name, i in zip(names, ids, strict=True)}


def _with_gene(cells: CellInput, counts: sp.csr_matrix, gene_id: int) -> CellInput:
    """The cells, every one of which expresses a gene, measured or not."""
    own = np.flatnonzero(cells.match.ids == gene_id)
    silent = np.asarray(counts[:, own].sum(1)).ravel() == 0
    added = sp.csr_matrix(silent[:, None].astype(counts.dtype))
    match = replace(cells.match, ids=np.append(cells.match.ids, np.int32(gene_id)))
    var, of_a_gene = cells.counts.var, np.argmax(cells.counts.is_gene)
    var = var.iloc[np.append(np.arange(len(var)), of_a_gene)]
    return CellInput(Matrix(sp.hstack([counts, added]).tocsr(), var, cells.counts.name), match)
