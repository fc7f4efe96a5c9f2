"""`cf.get.gene_modules`: the module of each gene."""

import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.select import select
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.keys import MODULES
from cellfm.tasks.genes import stored_modules


@shared_docs
@checked
def gene_modules(
    data: AnnData | MuData, *, key: str = MODULES.var, resolution: float | None = None, modality: str = "rna"
) -> pd.DataFrame:
    """Get the genes of each module from `cf.tl.gene_modules`.

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.gene_modules`.
    key
        The `key_added` of `cf.tl.gene_modules`, ``"cellfm_module"`` by default.
    resolution
        Which of several resolutions to use; by default the first.
    {modality}

    Returns
    -------
    DataFrame, a row for each gene of a module: ``gene`` and ``module`` (int), sorted by module.

    Raises
    ------
    MissingKeyError
        There are no such modules, or none at this resolution.

    Examples
    --------
    >>> cf.tl.embed_genes(adata)
    >>> cf.tl.gene_modules(adata)
    >>> list(cf.get.gene_modules(adata))
    ['gene', 'module']
    """
    genes, modules = stored_modules(select(data, modality), key, resolution)
    table = pd.DataFrame({"gene": genes, "module": modules})
    return table[table["module"] >= 0].sort_values("module", kind="stable", ignore_index=True)
