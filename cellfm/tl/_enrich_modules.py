"""`cf.tl.enrich_modules`: gene sets that are over-represented in gene modules."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from anndata import AnnData
from mudata import MuData

from cellfm.cells.outputs import require_keys, writing
from cellfm.cells.select import select
from cellfm.errors import InputError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.io.messages import warn
from cellfm.keys import MODULES
from cellfm.tasks.genes import match_sets, n_tests, over_representation, read_gene_sets, stored_modules


@shared_docs
@checked
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

    The background consists of the genes of the graph, which could have become part of a module. The test covers every
    pair of a module (with at least `min_genes` of `cf.tl.gene_modules`) and a gene set with `min_set_genes` to
    `max_set_genes` genes in the background, whether or not the two share a gene. P-values are adjusted over all these
    pairs, so that more modules or sets do not give more chance findings. The table lists only pairs that share genes;
    the others have a p-value of 1 and still count in the adjustment.

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.gene_modules`.
    gene_sets
        Path of a GMT file, a dict of names and genes, or the name of an Enrichr library such as ``"KEGG_2021_Human"``
        (downloaded by gseapy, which needs a network). Genes are named as in `var_names`, usually by symbols.
    key
        The `key_added` of `cf.tl.gene_modules`, ``"cellfm_module"`` by default.
    resolution
        Which of several resolutions to use; by default the first.
    min_set_genes, max_set_genes
        Sets with fewer or more genes in the background are not tested; by default all sets with a gene in it are
        tested.
    alpha
        Significance level for the log message; the table holds all pairs.
    {modality}
    key_added
        Key of the table in `uns`.
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
        No gene of the sets is in the graph (the message shows names of both), no set has an allowed size, or the file
        has an invalid line.
    MissingKeyError
        There are no modules, or none at this resolution.
    DownloadError
        The Enrichr library could not be downloaded.

    Examples
    --------
    >>> cf.tl.embed_genes(adata)
    >>> cf.tl.gene_modules(adata, resolution=1)
    >>> cf.tl.enrich_modules(adata, gene_sets)  # or a file: "KEGG_2021_Human.gmt"
    >>> adata.uns["cellfm_enrichment"].head(3)
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha must be between 0 and 1, not {alpha}.")
    adata = select(data, modality, copy=copy)
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
