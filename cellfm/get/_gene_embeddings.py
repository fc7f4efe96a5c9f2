"""`cf.get.gene_embeddings`: embeddings of genes."""

from collections.abc import Sequence

import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.select import select
from cellfm.errors import MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.messages import counted
from cellfm.keys import GENE_EMBEDDING
from cellfm.tasks.genes import gene_table


@shared_docs
@checked
def gene_embeddings(
    data: AnnData | MuData,
    *,
    genes: Sequence[str] | None = None,
    key: str = GENE_EMBEDDING.varm,
    modality: str = "rna",
) -> pd.DataFrame:
    """Get gene embeddings as a table with gene names, to save, join or pass to other packages.

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.embed_genes`.
    genes
        Genes to take, by `var_names`; by default all that have an embedding.
    key
        Key of the embedding in `varm`; ``"cellfm"`` by default.
    {modality}

    Returns
    -------
    DataFrame, genes x d_model; genes without an embedding are left out. Nothing is written.

    Raises
    ------
    MissingKeyError
        There is no such embedding or gene.

    Examples
    --------
    >>> cf.tl.embed_genes(adata)
    >>> cf.get.gene_embeddings(adata, genes=["CD3E", "LYZ"]).shape
    (2, 256)
    """
    table = gene_table(select(data, modality), key)
    if genes is not None:
        unknown = [gene for gene in genes if gene not in table.index]
        if unknown:
            raise MissingKeyError(
                f"{counted(len(unknown), 'gene is', 'genes are')} not in var_names: {', '.join(unknown[:10])}."
            )
        table = table.loc[list(genes)]
    return table.dropna()
