"""`cf.tl.compare_modules`: enrichment of modules from embeddings, from co-expression and at random."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from anndata import AnnData
from mudata import MuData

from cellfm.cells.outputs import require_keys, writing
from cellfm.cells.select import select
from cellfm.errors import InputError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.keys import GENE_EMBEDDING, MODULES
from cellfm.tasks.genes import compare_graphs, gene_features, match_sets, neighbour_graph, read_gene_sets

COEXPRESSION = "co-expression"


@shared_docs
@checked
def compare_modules(
    data: AnnData | MuData,
    gene_sets: Mapping[str, Iterable[str]] | str | Path,
    *,
    resolutions: Sequence[float] = (1, 2, 5, 10, 20, 30, 40, 60),
    embedding_keys: Sequence[str] = (GENE_EMBEDDING.varm,),
    n_neighbors: int = 15,
    min_genes: int = 5,
    genes: Sequence[str] | str | None = None,
    min_cells: int = 10,
    min_set_genes: int = 1,
    max_set_genes: int | None = None,
    alpha: float = 0.05,
    n_random: int = 10,
    layer: str | None = None,
    modality: str = "rna",
    key_added: str = MODULES.comparison,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Compare gene modules of CellFM with co-expression modules and random modules (Zeng 2025, Fig. 5b).

    All graphs use the same genes (those that have every embedding) and the same number of neighbours, resolutions and
    seed. The tests and their adjustment are those of `cf.tl.enrich_modules`: over all pairs of a module and a gene set
    of one partition, whether or not they share genes. Random modules may have an enriched term in up to about `alpha`
    of the draws; the share of draws in which they do shows whether the tests can be trusted.

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.embed_genes`.
    gene_sets
        Path of a GMT file, a dict, or the name of an Enrichr library (needs the network).
    resolutions
        Resolutions of Leiden.
    embedding_keys
        Embeddings in `varm` to compare, ``"cellfm"`` by default.
    n_neighbors, min_genes, genes, min_cells
        As in `cf.tl.gene_modules`.
    min_set_genes, max_set_genes
        As in `cf.tl.enrich_modules`.
    alpha
        Adjusted p-value up to which a term counts as enriched.
    n_random
        Number of draws of random modules, which have the sizes of the first embedding's modules.
    layer
        Layer with the counts; by default X.
    {modality}
    key_added
        Where the table goes in `uns`.
    random_state
        Seed of Leiden, of the random modules and of the choice of cells.
    {copy}

    Returns
    -------
    None, or the copy. Sets:

    `uns["cellfm_module_comparison"]`
        DataFrame, a row for each source (the embedding keys, ``"co-expression"``, ``"random"``), resolution and draw:
        ``n_modules``, ``n_genes`` in modules, ``n_tests`` (pairs tested), ``n_enriched`` terms, ``enriched`` (their
        names, joined by semicolons), and ``n_shared`` and ``n_unique``: how many of them co-expression also finds at
        this resolution, and how many are found only by this source.
    `uns["cellfm"]["cellfm_module_comparison"]`
        dict: ``n_sets`` that were tested, ``n_background`` (genes), ``alpha``, ``n_random``, seed, version.

    Raises
    ------
    InputError
        Fewer than 50 genes, a resolution of 0 or below, gene sets without a gene of the data, no set of these sizes.
    MissingKeyError
        No such embedding, layer or column.

    Examples
    --------
    >>> cf.tl.embed_genes(adata)
    >>> cf.tl.compare_modules(adata, gene_sets, resolutions=[1, 10])
    >>> adata.uns["cellfm_module_comparison"]
    """
    wanted = [float(value) for value in resolutions]
    if not wanted:
        raise InputError("resolutions= is empty; pass one or more numbers above 0.")
    if not embedding_keys:
        raise InputError("embedding_keys is empty; pass one or more keys.")
    adata = select(data, modality, copy=copy)
    require_keys(adata, "key_added", uns=key_added)
    sets = read_gene_sets(gene_sets)
    features_of = partial(
        gene_features, adata, genes=genes, min_cells=min_cells, layer=layer, random_state=random_state
    )
    by_source = {key: features_of("embedding", embedding_key=key) for key in embedding_keys}
    by_source[COEXPRESSION] = features_of("coexpression", embedding_key=embedding_keys[0])
    common = set.intersection(*(set(places) for places, _ in by_source.values()))
    graphs = {
        source: neighbour_graph(features[np.isin(places, list(common))], n_neighbors, random_state)
        for source, (places, features) in by_source.items()
    }
    background = np.asarray(adata.var_names)[sorted(common)]
    terms, members = match_sets(sets, background, min_size=min_set_genes, max_size=max_set_genes)
    table = compare_graphs(
        graphs,
        wanted,
        terms,
        members,
        min_genes=min_genes,
        alpha=alpha,
        n_random=n_random,
        random_state=random_state,
    )
    reference = table[table["source"] == COEXPRESSION].set_index("resolution")["enriched"]
    own = [set(filter(None, names.split(";"))) for names in table["enriched"]]
    others = [set(filter(None, reference[resolution].split(";"))) for resolution in table["resolution"]]
    table["n_shared"] = [len(one & other) for one, other in zip(own, others, strict=True)]
    table["n_unique"] = [len(one - other) for one, other in zip(own, others, strict=True)]
    with writing(data, modality=modality, copy=copy) as out:
        out.adata.uns[key_added] = table
        facts = {"n_sets": len(terms), "n_background": len(background), "alpha": alpha, "n_random": n_random}
        out.record(key_added, **facts, random_state=random_state)
    logger.info("added uns[%r]: %d sources at %d resolutions.", key_added, len(graphs) + 1, len(wanted))
    return out.returned
