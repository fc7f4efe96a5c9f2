"""`cf.pp.harmonize_genes`: genes under the names that the model uses."""

from pathlib import Path

from anndata import AnnData
from mudata import MuData

from cellfm.cells.harmonize import merge_matrices, name_genes, write_genes
from cellfm.cells.outputs import writing
from cellfm.cells.select import require_in_memory, select
from cellfm.errors import InputError
from cellfm.genes.hgnc import load_synonyms
from cellfm.genes.vocabulary import HasVocabulary, Vocabulary, resolve_vocabulary
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.io.messages import warn
from cellfm.keys import GENES, RUN


@shared_docs
def harmonize_genes(
    data: AnnData | MuData,
    *,
    model: str | Path | Vocabulary | HasVocabulary = "mini",
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    modality: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Rename genes to the symbols of the model, and add up those that become the same.

    A gene is matched by symbol or Ensembl id (with or without version, or both in one word) in `var_names` or one of
    the usual columns of `var`; by the symbol as R, Seurat or a spreadsheet changed it (``HLA.A``, ``2-Sep``) or as it
    was made unique (``TBCE-1``); and by previous symbol or alias. A gene that the model does not know takes the
    approved symbol, where `hgnc` tells it, and keeps its name otherwise. An alias of a gene that is also there under a
    better name is not followed: such data hold two genes. Where several rows are one gene, the first stays and X and
    every layer hold the sum: of the values, or of ``expm1`` of them for log-normalised matrices (the base is that in
    ``uns["log1p"]``, by default e). Cells, `obs`, `obsm`, `obsp`, `uns`, the order of cells and genes, and `raw` stay
    as they are. A second run changes nothing.

    Parameters
    ----------
    data
        Cells x genes, in memory. With MuData, the table `modality`.
    {vocabulary_model}
    {gene_key}
    {hgnc}
    {modality}
    copy
        Return a copy instead of changing `data`.

    Returns
    -------
    None, or the copy. Sets:

    `var_names`
        The new names, each of them once.
    `var["cellfm_original_name"]`
        str: the name the gene came with.
    `var["cellfm_match"]`
        categorical: how the gene was found (symbol, ensembl, restored, previous, alias, none).
    `uns["cellfm"]["genes"]`
        dict: how many genes were found in which way, renamed and merged; hashes of the vocabulary and the HGNC table.

    Raises
    ------
    InputError
        Backed data; genes have to be added up and a matrix holds negative values or NaN; no cells, no genes; names and
        ids of more than a tenth of the genes contradict each other; a table that is not HGNC's.
    MissingKeyError
        No such modality or column; the message lists the available ones.
    DownloadError
        The HGNC table could not be fetched.

    Warns
    -----
    DataWarning
        Gene names are taken from a column of `var` that is none of the usual ones.

    Examples
    --------
    >>> cf.pp.harmonize_genes(adata)
    >>> adata.var["cellfm_match"].value_counts().to_dict()
    {'symbol': 712, 'alias': 50, 'previous': 2, ...}
    """
    adata = select(data, modality)
    require_in_memory(adata, "cf.pp.harmonize_genes")
    vocab = resolve_vocabulary(model)
    synonyms = load_synonyms(hgnc)
    naming = name_genes(adata.var, vocab, synonyms, gene_key=gene_key)
    if problem := naming.match.contradictions.problem:
        raise InputError(problem)
    merged = merge_matrices(adata, naming)
    if naming.match.guess:
        warn(naming.match.guess)
    with writing(data, modality=modality, copy=copy) as out:
        write_genes(out.data, out.adata, naming, merged, vocab, synonyms.sha256)
    logger.info(
        "renamed %d of %d genes and added %d to others; added var[%r], var[%r] and uns[%r][%r].",
        int(naming.renamed.sum()),
        len(naming.old),
        naming.n_merged,
        GENES.original,
        GENES.matched,
        RUN,
        GENES.uns,
    )
    return out.returned
