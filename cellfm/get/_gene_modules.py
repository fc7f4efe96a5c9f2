"""`cf.get.gene_modules`: the module of each gene."""

import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.select import select
from cellfm.io.docstrings import shared_docs
from cellfm.keys import MODULES
from cellfm.tasks.genes import stored_modules


@shared_docs
def gene_modules(
    data: AnnData | MuData, *, key: str = MODULES.var, resolution: float | None = None, modality: str = "rna"
) -> pd.DataFrame:
    """The genes of each module that `cf.tl.gene_modules` found.

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.gene_modules`.
    key
        Which modules: its `key_added`, ``"cellfm_module"`` by default.
    resolution
        Which resolution, where there are several; by default the first.
    {modality}

    Returns
    -------
    DataFrame, a row for each gene of a module: ``gene`` and ``module`` (int); the modules in order.

    Raises
    ------
    MissingKeyError
        No such modules, or not at this resolution.

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
