"""`cf.tl.gene_network`: the strongest relations among chosen genes."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.outputs import require_key, require_keys, writing
from cellfm.cells.select import select
from cellfm.errors import InputError, MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.io.messages import warn
from cellfm.keys import GENE_EMBEDDING, MODULES
from cellfm.tasks.genes import strongest


@shared_docs
@checked
def gene_network(
    data: AnnData | MuData,
    genes: Sequence[str],
    *,
    embedding_keys: Sequence[str] = (GENE_EMBEDDING.varm,),
    n_neighbors: int = 3,
    modality: str = "rna",
    key_added: str = MODULES.network,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Find the strongest relations among chosen genes, such as an immune panel (Zeng 2025, "Gene-gene relationships").

    With embeddings from two models, or from two groups of cells, the table shows how relations change. For the paper's
    maps before and after fine-tuning, embed the genes with each model under a different `key_added`.

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.embed_genes`.
    genes
        Genes to relate, by `var_names`; those without an embedding are left out with a warning.
    embedding_keys
        Embeddings in `varm`, ``"cellfm"`` by default.
    n_neighbors
        Number of most similar genes, among the chosen ones, for which each gene keeps a relation, in any of the
        embeddings.
    {modality}
    key_added
        Where the table goes in `uns`.
    {copy}

    Returns
    -------
    None, or the copy. Sets:

    `uns["cellfm_gene_network"]`
        DataFrame, a row for each pair of genes: ``gene``, ``other``, and the cosine in each embedding, in a column with
        the embedding's name.
    `uns["cellfm"]["cellfm_gene_network"]`
        dict: ``n_genes``, ``n_neighbors``, version.

    Raises
    ------
    InputError
        Fewer than three of the genes have an embedding.
    MissingKeyError
        No such embedding.

    Examples
    --------
    >>> cf.tl.embed_genes(adata)
    >>> cf.tl.gene_network(adata, ["CD3D", "CD3E", "MS4A1", "CD79A", "LYZ", "CST3"])
    >>> adata.uns["cellfm_gene_network"]
    """
    adata = select(data, modality, copy=copy)
    require_keys(adata, "key_added", uns=key_added)
    for key in embedding_keys:
        require_key(key, "embedding_keys")  # they name columns of the table
    known = pd.Index(genes).drop_duplicates()
    known = known[known.isin(adata.var_names)]
    places = adata.var_names.get_indexer(known)
    rows = []
    for key in embedding_keys:
        if key not in adata.varm:
            raise MissingKeyError(f"No varm[{key!r}]; available: {', '.join(map(str, adata.varm)) or 'nothing'}.")
        rows.append(np.asarray(adata.varm[key], np.float32)[places])
    there = np.all([np.isfinite(one).all(1) & (one != 0).any(1) for one in rows], axis=0)
    left_out = [str(gene) for gene in genes if gene not in set(known[there])]
    if there.sum() < 3:
        raise InputError(
            f"Only {there.sum()} of {len(genes)} genes have an embedding; without: {', '.join(left_out[:10])}."
        )
    if left_out:
        verbs = "has no embedding and is" if len(left_out) == 1 else "have no embedding and are"
        warn(f"{len(left_out)} of {len(genes)} genes {verbs} left out: {', '.join(left_out[:10])}.")
    unit = [one[there] / np.linalg.norm(one[there], axis=1, keepdims=True) for one in rows]
    cosines = [one @ one.T for one in unit]
    pairs = np.array(strongest(cosines, n_neighbors), int).reshape(-1, 2)
    names = np.asarray(known)[there]
    table = pd.DataFrame({"gene": names[pairs[:, 0]], "other": names[pairs[:, 1]]})
    for key, cosine in zip(embedding_keys, cosines, strict=True):
        table[key] = cosine[pairs[:, 0], pairs[:, 1]]
    with writing(data, modality=modality, copy=copy) as out:
        out.adata.uns[key_added] = table
        out.record(key_added, n_genes=len(names), n_neighbors=n_neighbors)
    logger.info("added uns[%r]: %d relations among %d genes.", key_added, len(table), len(names))
    return out.returned
