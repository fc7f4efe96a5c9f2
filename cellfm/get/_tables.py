"""Tables that tools store in `uns`, complete or filtered, such as `cf.get.enrichment`."""

import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.select import select
from cellfm.errors import MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.keys import ATTENTION, CONTRIBUTIONS, MODULES


@shared_docs
@checked
def enrichment(
    data: AnnData | MuData,
    *,
    module: int | str | None = None,
    alpha: float | None = None,
    key: str = MODULES.enrichment,
    modality: str = "rna",
) -> pd.DataFrame:
    """Get the gene sets for which gene modules are enriched.

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.enrich_modules`.
    module
        Return only the terms of this module.
    alpha
        Return only terms with an adjusted p-value up to `alpha`; by default all.
    key
        The table in `uns`, ``"cellfm_enrichment"`` by default.
    {modality}

    Returns
    -------
    DataFrame, a row for each module and term with shared genes, as `cf.tl.enrich_modules` describes it.

    Raises
    ------
    MissingKeyError
        There is no such table, or no such module in it.

    Examples
    --------
    >>> cf.tl.embed_genes(adata)
    >>> cf.tl.gene_modules(adata)
    >>> cf.tl.enrich_modules(adata, gene_sets)
    >>> set(cf.get.enrichment(adata, alpha=0.05)) >= {"module", "term", "p_adjusted"}
    True
    """
    return _part(data, key, modality, "cf.tl.enrich_modules", alpha, module=module)


@shared_docs
@checked
def lncrnas(
    data: AnnData | MuData,
    *,
    group: str | None = None,
    alpha: float | None = None,
    key: str = ATTENTION.lncrnas,
    modality: str = "rna",
) -> pd.DataFrame:
    """Get the lncRNAs that mark groups of cells.

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.rank_lncrnas`.
    group
        Return only the rows of this group.
    alpha
        Return only rows with an adjusted p-value up to `alpha`; by default all.
    key
        The table in `uns`, ``"cellfm_lncrnas"`` by default.
    {modality}

    Returns
    -------
    DataFrame, a row for each group and gene, as `cf.tl.rank_lncrnas` describes it.

    Raises
    ------
    MissingKeyError
        There is no such table, or no such group in it.

    Examples
    --------
    >>> biotypes = {"CD3D": "lncRNA"}
    >>> cf.tl.rank_lncrnas(adata, model, groupby="cell_type", biotypes=biotypes, n_permutations=10)
    >>> set(cf.get.lncrnas(adata)) >= {"group", "gene", "p_adjusted"}
    True
    """
    return _part(data, key, modality, "cf.tl.rank_lncrnas", alpha, group=group)


@shared_docs
@checked
def attention_partners(
    data: AnnData | MuData, *, gene: str | None = None, key: str = ATTENTION.partners, modality: str = "rna"
) -> pd.DataFrame:
    """Get the genes most strongly linked to chosen genes by attention.

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.attention_partners`.
    gene
        Return only the partners of this gene.
    key
        The table in `uns`, ``"cellfm_attention_partners"`` by default.
    {modality}

    Returns
    -------
    DataFrame, a row for each chosen gene and partner, as `cf.tl.attention_partners` describes it.

    Raises
    ------
    MissingKeyError
        There is no such table, or no such gene in it.

    Examples
    --------
    >>> cf.tl.attention_partners(adata, model, genes=["CD3E"])
    >>> set(cf.get.attention_partners(adata, gene="CD3E")["chosen_gene"])
    {'CD3E'}
    """
    return _part(data, key, modality, "cf.tl.attention_partners", None, chosen_gene=gene)


@shared_docs
@checked
def gene_contributions(
    data: AnnData | MuData, *, group: str | None = None, key: str = CONTRIBUTIONS.uns, modality: str = "rna"
) -> pd.DataFrame:
    """Get the contribution of each gene to the embedding of groups of cells.

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.gene_contributions`.
    group
        Return only the rows of this group.
    key
        The table in `uns`, ``"cellfm_contributions"`` by default.
    {modality}

    Returns
    -------
    DataFrame, a row for each group and gene, as `cf.tl.gene_contributions` describes it.

    Raises
    ------
    MissingKeyError
        There is no such table, or no such group in it.

    Examples
    --------
    >>> cf.tl.gene_contributions(adata, model, groupby="cell_type")
    >>> set(cf.get.gene_contributions(adata)) >= {"group", "gene", "contribution", "expression_specificity"}
    True
    """
    return _part(data, key, modality, "cf.tl.gene_contributions", None, group=group)


def _part(
    data: AnnData | MuData, key: str, modality: str, tool: str, alpha: float | None, **chosen: object
) -> pd.DataFrame:
    """The rows that have these values in these columns, and an adjusted p-value up to `alpha`."""
    table = select(data, modality).uns.get(key)
    if not isinstance(table, pd.DataFrame):
        raise MissingKeyError(f"uns[{key!r}] contains no table: call {tool} first.")
    table = table.rename(columns={"perturbed": "chosen_gene"})  # its name in version 0.1
    for column, value in chosen.items():
        if value is not None:
            present = [str(name) for name in table[column].unique()]
            if str(value) not in present:
                names = ", ".join(present) or "none"
                raise MissingKeyError(f"No {column} {value!r} in uns[{key!r}]; available: {names}.")
            table = table[table[column].astype(str) == str(value)]
    if alpha is not None:
        table = table[table["p_adjusted"] <= alpha]
    return table.reset_index(drop=True)
