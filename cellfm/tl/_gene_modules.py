"""`cf.tl.gene_modules`: groups of genes that are similar by embedding or by co-expression."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.outputs import require_keys, writing
from cellfm.cells.select import select
from cellfm.errors import InputError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.io.messages import warn
from cellfm.keys import GENE_EMBEDDING, MODULES
from cellfm.tasks.genes import gene_features, leiden_modules, module_keys, neighbour_graph, spread, umap_of


@shared_docs
@checked
def gene_modules(
    data: AnnData | MuData,
    *,
    resolution: float | Sequence[float] = 10.0,
    source: Literal["embedding", "coexpression"] = "embedding",
    embedding_key: str = GENE_EMBEDDING.varm,
    n_neighbors: int = 15,
    min_genes: int = 5,
    flavor: Literal["igraph", "leidenalg"] = "igraph",
    genes: Sequence[str] | str | None = None,
    min_cells: int = 10,
    umap: bool = False,
    layer: str | None = None,
    modality: str = "rna",
    key_added: str = MODULES.var,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Group genes into modules: nearest neighbours by cosine, then Leiden (Zeng 2025, "Gene-gene relationships").

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.embed_genes`. With MuData, the table `modality`.
    resolution
        Resolution of Leiden, one or several. Higher values give more and smaller modules (the paper shows 1 to 60).
    source
        ``"embedding"`` links genes with similar CellFM embeddings. ``"coexpression"``, the control, links genes whose
        log-normalised expression is correlated over these cells (at most 5,000 cells, chosen at random).
    embedding_key
        Key of the embedding in `varm`.
    n_neighbors
        Number of nearest genes to which each gene is linked. The search is exact up to 20,000 genes and approximate
        above.
    min_genes
        Smaller modules are dropped; their genes then belong to no module.
    flavor
        Implementation of Leiden, as in scanpy: ``"igraph"``, or the slower ``"leidenalg"``.
    genes
        Genes to group: names, or a boolean column of `var`. By default all genes with an embedding (for co-expression,
        all genes).
    min_cells
        Genes that are expressed in fewer cells are left out.
    umap
        Also compute a UMAP of the graph for `cf.pl.gene_modules`, which takes longer than finding the modules.
    layer
        Layer with the counts; by default X.
    {modality}
    key_added
        Key of the modules in `var`.
    random_state
        Seed of Leiden, and of the choice of cells.
    {copy}

    Returns
    -------
    None, or the copy. Sets:

    `var["cellfm_module"]`
        categorical: the module of each gene at the first resolution, ``"0"`` is the largest; missing for genes without
        a module.
    `varm["cellfm_modules"]`
        int32, (n_vars, n_resolutions): the module at each resolution, -1 for none.
    `varp["cellfm_neighbors"]`
        float32 CSR, (n_vars, n_vars): cosines (for co-expression, correlations) of neighbouring genes.
    `varm["cellfm_modules_umap"]`
        float32, (n_vars, 2): with `umap`; NaN for genes outside the graph.
    `uns["cellfm"]["cellfm_module"]`
        dict: ``resolutions``, source, number of genes, seed, version.

    With another `key_added`, the other keys follow it: ``<key_added>s``, ``<key_added>_neighbors`` and
    ``<key_added>s_umap``.

    Raises
    ------
    InputError
        Fewer than 50 genes to group, a resolution of 0 or below.
    MissingKeyError
        No such embedding, layer or column.

    Examples
    --------
    >>> cf.tl.embed_genes(adata)
    >>> cf.tl.gene_modules(adata, resolution=[1, 10])
    >>> adata.var["cellfm_module"].value_counts().head(3)
    """
    resolutions = [float(value) for value in np.atleast_1d(resolution)]
    if not resolutions:
        raise InputError("resolution= is empty; pass one or more numbers above 0.")
    if min_genes < 1:
        raise InputError(f"min_genes must be 1 or more, not {min_genes}.")
    if flavor not in ("igraph", "leidenalg"):
        raise InputError(f"flavor must be 'igraph' or 'leidenalg', not {flavor!r}.")
    adata = select(data, modality, copy=copy)
    require_keys(adata, "key_added", var=key_added)
    at_all, neighbours, umap_key = module_keys(key_added)
    require_keys(adata, "key_added", varm=[at_all, umap_key] if umap else at_all, varp=neighbours)
    kept, features = gene_features(
        adata,
        source,
        embedding_key=embedding_key,
        genes=genes,
        min_cells=min_cells,
        layer=layer,
        random_state=random_state,
    )
    graph = neighbour_graph(features, n_neighbors, random_state)
    modules = np.full((adata.n_vars, len(resolutions)), -1, np.int32)
    modules[kept] = leiden_modules(graph, resolutions, min_genes=min_genes, random_state=random_state, flavor=flavor)
    first = modules[:, 0]
    if (first < 0).all():
        warn(f"No module has {min_genes} genes at resolution {resolutions[0]:g}: use a lower resolution.")

    layout = umap_of(graph, random_state) if umap else None
    with writing(data, modality=modality, copy=copy) as out:
        names = [str(i) for i in range(first.max(initial=-1) + 1)]
        out.adata.var[key_added] = pd.Categorical.from_codes(first, pd.Index(names))
        out.adata.varm[at_all] = modules
        out.adata.varp[neighbours] = spread(graph, kept, adata.n_vars)
        if layout is not None:
            out.adata.varm[umap_key] = np.full((adata.n_vars, 2), np.nan, np.float32)
            out.adata.varm[umap_key][kept] = layout
        out.record(
            key_added,
            "var",
            **{MODULES.resolutions: np.array(resolutions)},
            source=source,
            n_genes=len(kept),
            n_neighbors=n_neighbors,
            min_genes=min_genes,
            flavor=flavor,
            random_state=random_state,
        )
    logger.info("added var[%r]: %d modules, %d genes.", key_added, len(names), int((first >= 0).sum()))
    return out.returned
