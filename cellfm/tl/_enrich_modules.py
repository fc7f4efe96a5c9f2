"""`cf.tl.enrich_modules`: what modules of genes stand for."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from anndata import AnnData
from mudata import MuData

from cellfm.cells.outputs import require_keys, writing
from cellfm.cells.select import select
from cellfm.errors import InputError
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.io.messages import warn
from cellfm.keys import MODULES
from cellfm.tasks.genes import match_sets, n_tests, over_representation, read_gene_sets, stored_modules


@shared_docs
def enrich_modules(
    data: AnnData | MuData,
    gene_sets: Mapping[str, Iterable[str]] | str | Path,
    *,
    key: str = MODULES.var,
    resolution: float | None = None,
    min_set_genes: int = 1,
    max_set_genes: int | None = None,
    alpha: float = 0.05,
    modality: str = "rna",
    key_added: str = MODULES.enrichment,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Test modules for over-representation of gene sets (hypergeometric, Benjamini-Hochberg).

    The background is the genes of the graph: those that could have come into a module. Tested is every pair of a module
    (those with `min_genes` of `cf.tl.gene_modules`) and a gene set that has `min_set_genes` to `max_set_genes` genes in
    the background, whether or not the two share a gene; p-values are adjusted over all of these pairs, so that more
    modules or more sets do not find more by chance. The table lists the pairs that share genes; those that do not have
    p-values of 1, and count all the same.

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.gene_modules`.
    gene_sets
        Path of a GMT file, a dict of names and genes, or the name of an Enrichr library such as ``"KEGG_2021_Human"``
        (fetched by gseapy: needs the network). Genes are named as in `var_names`, by symbols as a rule.
    key
        Which modules: the `key_added` of `cf.tl.gene_modules`, ``"cellfm_module"`` by default.
    resolution
        Which resolution, where there are several; by default the first.
    min_set_genes, max_set_genes
        Sets with fewer or more genes in the background are not tested; by default all that have a gene there are.
    alpha
        Level that the log speaks of; the table holds everything.
    {modality}
    key_added
        Where the table goes in `uns`.
    {copy}

    Returns
    -------
    None, or the copy. Sets:

    `uns["cellfm_enrichment"]`
        DataFrame, a row for each module and term that share genes, the most significant first: ``module`` (str),
        ``term``, ``overlap``, ``module_size``, ``term_size`` (genes in the background), ``odds_ratio``, ``p_value``,
        ``p_adjusted``, ``genes`` (joined by semicolons).
    `uns["cellfm"]["cellfm_enrichment"]`
        dict: ``n_tests`` (pairs tested, over which p-values are adjusted), ``n_modules``, ``n_sets`` and
        ``n_background`` (genes), ``modules`` (`key`), version.

    Raises
    ------
    InputError
        No gene of the sets is in the graph (names of both are shown), no set of these sizes, a broken line in the file.
    MissingKeyError
        No modules; no such resolution.
    DownloadError
        The Enrichr library could not be fetched.

    Examples
    --------
    >>> cf.tl.embed_genes(adata)
    >>> cf.tl.gene_modules(adata, resolution=1)
    >>> cf.tl.enrich_modules(adata, gene_sets)  # or a file: "KEGG_2021_Human.gmt"
    >>> adata.uns["cellfm_enrichment"].head(3)
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha must be between 0 and 1, not {alpha}.")
    adata = select(data, modality)
    require_keys(adata, "key_added", uns=key_added)
    background, modules = stored_modules(adata, key, resolution)
    sets = read_gene_sets(gene_sets)
    terms, members = match_sets(sets, background, min_size=min_set_genes, max_size=max_set_genes)
    if len(terms) < len(sets) / 2:
        number = "" if max_set_genes is None and min_set_genes == 1 else "enough and not too many "
        warn(
            f"Only {len(terms):,} of {len(sets):,} gene sets share {number}genes with the {len(background):,} of the "
            "graph."
        )
    table = over_representation(modules, terms, members, background)
    table["module"] = table["module"].astype(str)
    with writing(data, modality=modality, copy=copy) as out:
        out.adata.uns[key_added] = table
        out.record(
            key_added,
            modules=key,
            n_tests=n_tests(modules, members),
            n_modules=int(modules.max(initial=-1)) + 1,
            n_sets=len(terms),
            n_background=len(background),
        )
    found = table[table["p_adjusted"] <= alpha]
    logger.info(
        "added uns[%r]: %d tests; %d terms over-represented in %d modules.",
        key_added,
        n_tests(modules, members),
        found["term"].nunique(),
        found["module"].nunique(),
    )
    return out.returned
