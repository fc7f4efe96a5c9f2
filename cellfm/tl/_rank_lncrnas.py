"""`cf.tl.rank_lncrnas`: long non-coding RNAs that mark groups of cells."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from cellfm.cells.input import read_input
from cellfm.cells.input_options import InputOptions
from cellfm.cells.obs import cell_groups
from cellfm.cells.outputs import require_keys, writing
from cellfm.cells.select import select
from cellfm.errors import InputError
from cellfm.genes.match import MIN_KNOWN_GENES
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.io.messages import warn
from cellfm.keys import ATTENTION
from cellfm.model import CellFM, resolve_model
from cellfm.model._embed import stored_or_new_embedding
from cellfm.tasks._expression import log_normalised
from cellfm.tasks.genes import (
    CONTRIBUTION,
    adjusted_over_all,
    cls_scores,
    contrasts,
    is_lncrna,
    is_tested,
    layer_facts,
    marker_table,
    mean_contributions,
    pick_layer,
    rank_correlation,
    score_matrices,
)


@shared_docs
@checked
def rank_lncrnas(
    data: AnnData | MuData,
    model: str | Path | CellFM = "mini",
    *,
    groupby: str,
    by: Literal["attention", "contribution"] = "attention",
    biotypes: str | Path | Mapping[str, str] | pd.Series | None = None,
    min_cells: int = 10,
    min_frac: float = 0.05,
    n_permutations: int = 1000,
    attention_layer: int | None = None,
    layer: str | None = None,
    modality: str = "rna",
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    key_added: str = ATTENTION.lncrnas,
    batch_size: int | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Rank long non-coding RNAs by how specifically the cell token attends to them in a group of cells.

    The score of a gene in a cell is that of `cf.tl.attention` (0 where the cell does not express it); its specificity
    for a group is the mean over the group minus the mean over all other cells (after Zeng 2025, "lncRNA", which ranks
    by attention alone). The p-value comes from shuffling the groups among the cells. All pairs of a group and a lncRNA
    are tested if at least `min_cells` cells of all groups express the lncRNA, and p-values are adjusted over all tests
    (Benjamini-Hochberg), whether or not they are listed.

    The table includes two controls, adjusted over the same pairs: the same statistic with the genes of a cell ranked by
    expression instead of attention, and the Wilcoxon test of log-normalised expression. Where they agree with
    attention, expression alone would have found the marker; with ``"mini"`` this is usually the case (see
    `cf.tl.attention`).

    Parameters
    ----------
    data
        Counts, cells x genes. With MuData, the table `modality`.
    {model}
    groupby
        Column of `obs` with the groups; cells without a group are left out.
    by
        Order of the genes of a group: by ``"attention"``, as in the paper, or by ``"contribution"`` to the group's
        embeddings along their direction (`cf.tl.gene_contributions`). Contributions have no p-value, because the
        direction is derived from the groups. They show what the network uses, not better markers
        (``benchmarks/contributions.md``).
    biotypes
        Biotypes of the genes: by default those of the model's vocabulary; or a column of `var`, the path of a table
        with the columns of GENCODE or HGNC, or a mapping from symbol or Ensembl id to biotype.
    min_cells
        Minimum number of cells, over all groups, that express a gene for it to be tested.
    min_frac
        Minimum share of a group's cells that express a gene for it to be listed. With 0, all tests are listed.
    n_permutations
        Number of times that the groups are shuffled; the smallest possible p-value is ``1 / (n_permutations + 1)``.
    {attention_layer}
    {layer_of_data}
    {modality}
    {gene_key}
    {hgnc}
    key_added
        Where the table goes in `uns`.
    {batch_size}
    {min_known_genes}
    random_state
        Seed of the permutations, and of the sample of genes drawn from very deep cells.
    {copy}

    Returns
    -------
    None, or the copy. Sets:

    `uns["cellfm_lncrnas"]`
        DataFrame, a row for each group and gene, the first by `by` first: ``group``, ``gene`` (as in `var_names`),
        ``score`` and ``specificity`` (0 to 1 and -1 to 1), ``p_value``, ``p_adjusted``; the control
        ``expression_score``, ``expression_specificity``, ``expression_p_value``, ``expression_p_adjusted``;
        ``n_cells``, ``fraction``, ``wilcoxon_log_fold_change`` (log2) and ``wilcoxon_p_adjusted``; with
        ``by="contribution"`` also ``contribution``.
    `uns["cellfm"]["cellfm_lncrnas"]`
        dict: ``attention_layer`` (the layer that was read, counted from 0), ``active_layers``, ``n_tested`` (number of
        pairs over which p-values are adjusted), ``expression_correlation`` (rank correlation of the two specificities
        over the listed pairs), model, hashes, seed, version.

    Raises
    ------
    InputError
        No counts, only one group, no lncRNA among the genes, a bad filter, no such layer of the network, an inactive
        layer (the message lists the active ones), a model without active layers.
    MissingKeyError
        No such layer, modality or column.

    Warns
    -----
    DataWarning
        No lncRNA is expressed by `min_cells` cells: the table is empty.

    Examples
    --------
    >>> cf.tl.rank_lncrnas(adata, groupby="cell_type", n_permutations=50)
    >>> adata.uns["cellfm_lncrnas"].groupby("group").head(1)
    """
    if by not in ("attention", "contribution"):
        raise InputError(f"by must be 'attention' or 'contribution', not {by!r}.")
    if layer == "raw":
        raise InputError("adata.raw has other genes than adata: call adata.raw.to_adata() first.")
    adata = select(data, modality, copy=copy)
    require_keys(adata, "key_added", uns=key_added)
    names, groups = cell_groups(adata, groupby)
    loaded = resolve_model(model)
    network_layer = pick_layer(loaded, attention_layer)
    options = InputOptions(layer=layer, gene_key=gene_key, hgnc=hgnc, min_known_genes=min_known_genes)
    cells = read_input(adata, loaded.vocab, options)
    places = np.flatnonzero(is_lncrna(adata, cells.match.ids, loaded.vocab, biotypes))
    ids, first = np.unique(cells.match.ids[places], return_index=True)
    places = places[first]
    how: dict[str, Any] = {"layer": network_layer, "batch_size": batch_size, "random_state": random_state}
    blocks = cls_scores(loaded, cells, **how)
    by_attention, by_expression = score_matrices(blocks, adata.n_obs, len(loaded.vocab) + 1, ids)
    known = groups >= 0
    tested = is_tested(by_attention[known], min_cells)
    if not tested.any():
        warn(
            f"None of {len(ids)} lncRNAs is expressed by {min_cells} cells or more of the groups (min_cells=): nothing "
            "was tested, and the table is empty."
        )
    genes = adata.var_names[places[tested]].to_numpy()
    table = marker_table(
        {"": by_attention[known][:, tested], "expression_": by_expression[known][:, tested]},
        genes,
        groups[known],
        names,
        min_frac=min_frac,
        n_permutations=n_permutations,
        random_state=random_state,
    )
    values = log_normalised(cells.counts.rows(0, adata.n_obs)[known])[:, places[tested]]
    table = table.merge(_wilcoxon(values, genes, np.array(names)[groups[known]]), how="left", on=["group", "gene"])
    if by == "contribution":
        embedding = stored_or_new_embedding(adata, loaded, cells, batch_size=batch_size, random_state=random_state)
        of_genes, _ = mean_contributions(loaded, cells, contrasts(embedding, groups, names, names, None, None), **how)
        table = _by_contribution(table, of_genes[:, 0, CONTRIBUTION][:, ids[tested]], names, genes)
    facts = cells.facts(loaded, random_state) | layer_facts(loaded, network_layer)
    facts |= {"groupby": groupby, "by": by, "n_permutations": n_permutations, "n_tested": len(names) * len(genes)}
    specificities = table["specificity"].to_numpy(), table["expression_specificity"].to_numpy()
    facts[ATTENTION.correlation] = rank_correlation(*specificities)
    with writing(data, modality=modality, copy=copy) as out:
        out.adata.uns[key_added] = table
        out.record(key_added, **facts)
    logger.info(
        "read layer %d; added uns[%r]: %d lncRNAs tested, %d markers at adjusted p of 0.05 (%d by expression alone).",
        network_layer,
        key_added,
        len(genes),
        int((table["p_adjusted"] <= 0.05).sum()),
        int((table["expression_p_adjusted"] <= 0.05).sum()),
    )
    return out.returned


def _by_contribution(
    table: pd.DataFrame, contributions: np.ndarray, names: list[str], genes: np.ndarray
) -> pd.DataFrame:
    """The table with the contributions (n_groups, n_genes), in their order within each group."""
    pairs = pd.MultiIndex.from_product([names, genes], names=["group", "gene"])
    table = table.join(pd.Series(contributions.ravel(), pairs, name="contribution"), on=["group", "gene"])
    order = np.lexsort((-table["contribution"], pd.factorize(table["group"])[0]))
    return table.iloc[order].reset_index(drop=True)


def _wilcoxon(values: sp.csr_matrix, genes: np.ndarray, groups: np.ndarray) -> pd.DataFrame:
    """Each group of at least two cells against all other cells, by scanpy; p-values are adjusted over all pairs."""
    import scanpy as sc  # slow to import

    columns = ["group", "gene", "wilcoxon_log_fold_change", "wilcoxon_p_adjusted"]
    cells = AnnData(values, obs={"group": pd.Categorical(groups)}, var=pd.DataFrame(index=genes))
    large = cells.obs["group"].value_counts() > 1
    compared = list(large.index[large])
    if not compared or not len(genes):
        return pd.DataFrame(columns=columns).astype({"wilcoxon_log_fold_change": float, "wilcoxon_p_adjusted": float})
    sc.tl.rank_genes_groups(cells, "group", groups=compared, method="wilcoxon")
    table = sc.get.rank_genes_groups_df(cells, None)
    if "group" not in table:  # scanpy leaves it out for a single group
        table["group"] = compared[0]
    table["wilcoxon_p_adjusted"] = adjusted_over_all(table["pvals"].to_numpy(float))
    table = table.rename(columns={"names": "gene", "logfoldchanges": "wilcoxon_log_fold_change"})
    table[["group", "gene"]] = table[["group", "gene"]].astype(str)
    return table[columns]
