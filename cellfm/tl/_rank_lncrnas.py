"""`cf.tl.rank_lncrnas`: long non-coding RNAs that mark groups of cells."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from mudata import MuData

from cellfm._adata import cell_groups, copied, select
from cellfm._encode import read_cells_for
from cellfm._genes import MIN_KNOWN_GENES
from cellfm._logging import logger
from cellfm.errors import InputError
from cellfm.keys import ATTENTION
from cellfm.model import CellFM, resolve_model
from cellfm.tasks.genes import cls_scores, is_lncrna, log_normalised, marker_table, score_matrix


def rank_lncrnas(
    data: AnnData | MuData,
    model: str | Path | CellFM = "mini",
    *,
    groupby: str,
    biotypes: str | Path | Mapping[str, str] | pd.Series | None = None,
    min_cells: int = 10,
    min_frac: float = 0.05,
    n_permutations: int = 1000,
    attention_layer: int = -1,
    layer: str | None = None,
    modality: str = "rna",
    gene_key: str | None = None,
    hgnc: str | Path | None = None,
    key_added: str = ATTENTION.lncrnas,
    batch_size: int | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Rank long non-coding RNAs by how specifically the cell token reads them in a group of cells.

    The score of a gene in a cell is that of `cf.tl.attention` (0 where the cell does not express it); its specificity
    for a group is the mean over the group minus the mean over all other cells (after Zeng 2025, "lncRNA", which ranks
    by attention alone). The p-value is that of the specificity when the groups are shuffled among the cells; adjusted
    over all tested pairs of a group and a gene (Benjamini-Hochberg). The Wilcoxon test of the same genes'
    log-normalised expression stands beside: where the two agree, expression alone would have found the marker.

    Parameters
    ----------
    data
        Counts, cells x genes. With MuData, the table `modality`.
    model
        A model, its name or its path; see `cf.load_model`.
    groupby
        Column of `obs` with the groups; cells without a group are left out.
    biotypes
        What the genes are: by default the model's vocabulary says; else a column of `var`, the path of a table with
        GENCODE's or HGNC's columns, or a mapping from symbol or Ensembl id to biotype.
    min_cells
        Cells, of all groups, that must express a gene for it to be tested.
    min_frac
        Share of a group's cells that must express a gene for it to be listed. With 0 all tests are listed.
    n_permutations
        Times that the groups are shuffled; the least p-value is ``1 / (n_permutations + 1)``.
    attention_layer
        Layer that is read, from 0; negative ones count from the last.
    layer
        Layer of `data` with the counts; by default X.
    modality
        Table of a MuData.
    gene_key
        Column of `var` with the gene names, where the automatic choice is wrong.
    hgnc
        Table of previous symbols and aliases, as for `cf.tl.embed`.
    key_added
        Where the table goes in `uns`.
    batch_size
        Cells computed at once; the result is the same.
    min_known_genes
        Least number of genes that the model must know.
    random_state
        Seed of the permutations, and of the choice among the genes of very deep cells.
    copy
        Return a copy instead of writing to `data`.

    Returns
    -------
    None, or the copy. Sets:

    `uns["cellfm_lncrnas"]`
        DataFrame, a row for each group and gene, the most specific first: ``group``, ``gene`` (as in `var_names`),
        ``score`` and ``specificity`` (0 to 1 and -1 to 1), ``n_cells``, ``fraction``, ``p_value``, ``p_adjusted``,
        ``wilcoxon_log_fold_change`` (log2) and ``wilcoxon_p_adjusted``.

    Raises
    ------
    InputError
        No counts, one group only, no lncRNA among the genes, a bad filter.
    MissingKeyError
        No such layer, modality or column.

    Examples
    --------
    >>> cf.tl.rank_lncrnas(adata, groupby="cell_type", n_permutations=50)
    >>> adata.uns["cellfm_lncrnas"].groupby("group").head(1)
    """
    if min_cells < 1 or not 0 <= min_frac <= 1 or n_permutations < 1:
        raise InputError("min_cells and n_permutations must be 1 or more, min_frac between 0 and 1.")
    if layer == "raw":
        raise InputError("adata.raw has genes of its own: call adata.raw.to_adata() first.")
    adata = select(data, modality)
    names, groups = cell_groups(adata, groupby)
    loaded = resolve_model(model)
    cells = read_cells_for(
        adata, loaded.vocab, layer=layer, gene_key=gene_key, hgnc=hgnc, min_known_genes=min_known_genes
    )
    places = np.flatnonzero(is_lncrna(adata, cells.match.ids, loaded.vocab, biotypes))
    ids, first = np.unique(cells.match.ids[places], return_index=True)
    places = places[first]
    blocks = cls_scores(loaded, cells, layer=attention_layer, batch_size=batch_size, random_state=random_state)
    scores = score_matrix(blocks, adata.n_obs, len(loaded.vocab) + 1, ids)
    known = groups >= 0
    table = marker_table(
        scores[known],
        adata.var_names[places].to_numpy(),
        groups[known],
        names,
        min_cells=min_cells,
        min_frac=min_frac,
        n_permutations=n_permutations,
        random_state=random_state,
    )
    counts = cells.counts.rows(0, adata.n_obs)[known]
    expression = AnnData(log_normalised(counts)[:, places], var=adata.var.iloc[places][[]])
    tested = _wilcoxon(expression, np.array(names)[groups[known]])
    table = table.merge(tested, how="left", on=["group", "gene"])
    result = copied(data) if copy else data
    select(result, modality).uns[key_added] = table
    n_found = int((table["p_adjusted"] <= 0.05).sum())
    logger.info("added uns[%r]: %d lncRNAs, %d markers with adjusted p of 0.05 or less.", key_added, len(ids), n_found)
    return result if copy else None


def _wilcoxon(expression: AnnData, groups: np.ndarray) -> pd.DataFrame:
    """Each group against all other cells, by scanpy."""
    expression.obs["group"] = pd.Categorical(groups)
    large = expression.obs["group"].value_counts() > 1
    sc.tl.rank_genes_groups(expression, "group", groups=list(large.index[large]), method="wilcoxon")
    found = sc.get.rank_genes_groups_df(expression, None)
    if "group" not in found:  # scanpy leaves it out for a single group
        found["group"] = large.index[large][0]
    found = found.rename(
        columns={
            "names": "gene",
            "logfoldchanges": "wilcoxon_log_fold_change",
            "pvals_adj": "wilcoxon_p_adjusted",
        }
    )
    found[["group", "gene"]] = found[["group", "gene"]].astype(str)
    return found[["group", "gene", "wilcoxon_log_fold_change", "wilcoxon_p_adjusted"]]
