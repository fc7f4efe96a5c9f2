"""`cf.tl.score_modules`: how much each cell expresses each module of genes."""

import numpy as np
from anndata import AnnData
from mudata import MuData

from cellfm.cells.counts import require_counts
from cellfm.cells.matrix import read_matrix
from cellfm.cells.outputs import require_keys, writing
from cellfm.cells.select import select
from cellfm.errors import InputError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.io.progress import progress
from cellfm.keys import MODULES
from cellfm.tasks._expression import log_normalised
from cellfm.tasks.genes import stored_modules


@shared_docs
@checked
def score_modules(
    data: AnnData | MuData,
    *,
    key: str = MODULES.var,
    resolution: float | None = None,
    n_modules: int | None = None,
    layer: str | None = None,
    modality: str = "rna",
    key_added: str = MODULES.scores,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Score cells by the expression of gene modules, as `scanpy.tl.score_genes` does.

    The score is the mean log-normalised expression of a module's genes minus that of randomly drawn genes with similar
    expression.

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.gene_modules`.
    key
        The `key_added` of `cf.tl.gene_modules`, ``"cellfm_module"`` by default.
    resolution
        Which of several resolutions to use; by default the first.
    n_modules
        Number of modules to score, the largest first; by default all.
    layer
        Layer with the counts; by default X.
    {modality}
    key_added
        Key of the scores in `obsm`.
    random_state
        Seed of the drawn genes.
    {copy}

    Returns
    -------
    None, or the copy. Sets:

    `obsm["cellfm_module_scores"]`
        float32, (n_obs, n_modules): column i is module i.
    `uns["cellfm"]["cellfm_module_scores"]`
        dict: the modules, the matrix, seed, version.

    Raises
    ------
    InputError
        There are no counts, no modules at this resolution, or no genes outside the modules.
    MissingKeyError
        There are no modules, or there is no such resolution or layer.

    Examples
    --------
    >>> cf.tl.embed_genes(adata)
    >>> cf.tl.gene_modules(adata, resolution=5)
    >>> cf.tl.score_modules(adata, n_modules=3)
    >>> adata.obsm["cellfm_module_scores"].shape
    (200, 3)
    """
    import scanpy as sc  # slow to import

    adata = select(data, modality, copy=copy)
    require_keys(adata, "key_added", obsm=key_added)
    genes, modules = stored_modules(adata, key, resolution)
    counts = require_counts(read_matrix(adata, layer), adata)
    n = int(modules.max(initial=-1)) + 1
    if not n:
        raise InputError("There is no module at this resolution to score.")
    n = n if n_modules is None else min(n, n_modules)
    expression = AnnData(log_normalised(counts.rows(0, adata.n_obs)), var=adata.var[[]])
    expression = expression if counts.is_gene.all() else expression[:, counts.is_gene].copy()
    scores = np.empty((adata.n_obs, n), np.float32)
    with progress(n, "scoring modules", "modules") as bar:
        for i in range(n):
            sc.tl.score_genes(expression, list(genes[modules == i]), score_name="score", random_state=random_state)
            scores[:, i] = expression.obs["score"]
            bar.update()
    with writing(data, modality=modality, copy=copy) as out:
        out.adata.obsm[key_added] = scores
        out.record(key_added, "obsm", modules=key, matrix=counts.name, n_modules=n, random_state=random_state)
    logger.info("added obsm[%r] (%d x %d).", key_added, *scores.shape)
    return out.returned
