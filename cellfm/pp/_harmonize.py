"""`cf.pp.harmonize_genes`: rename genes to the symbols of the model."""

from pathlib import Path

from anndata import AnnData
from mudata import MuData

from cellfm.cells.harmonize import merge_matrices, name_genes, write_genes
from cellfm.cells.outputs import writing
from cellfm.cells.select import require_in_memory, select
from cellfm.errors import InputError
from cellfm.genes.hgnc import load_synonyms
from cellfm.genes.vocabulary import HasVocabulary, Vocabulary, resolve_vocabulary
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.io.messages import warn
from cellfm.keys import GENES, RUN


@shared_docs
@checked
def harmonize_genes(
    data: AnnData | MuData,
    *,
    model: str | Path | Vocabulary | HasVocabulary = "mini",
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    modality: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Rename genes to the symbols of the model, and sum duplicates.

    A gene is matched by symbol or Ensembl id (with or without version, or both in one word) in `var_names` or one of
    the usual columns of `var`; by the symbol as R, Seurat or a spreadsheet changed it (``HLA.A``, ``2-Sep``) or as it
    was made unique (``TBCE-1``); and by previous symbol or alias. A gene that the model does not know gets its approved
    symbol if `hgnc` contains it, and keeps its name otherwise. If a gene also occurs under a better name, its alias is
    not followed: such data hold two genes. If several rows are the same gene, the first one stays, and X and every
    layer hold the sum of the values, or of their ``expm1`` for log-normalised matrices (with the base in
    ``uns["log1p"]``, by default e). Cells, `obs`, `obsm`, `obsp`, `uns`, the order of cells and genes, and `raw` do not
    change. A second run changes nothing.

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
        The new names, which are unique.
    `var["cellfm_original_name"]`
        str: the original name of the gene.
    `var["cellfm_match"]`
        categorical: how the gene was matched (symbol, ensembl, restored, previous, alias, none).
    `uns["cellfm"]["genes"]`
        dict: how many genes were matched in each way, renamed and merged; hashes of the vocabulary and the HGNC table.

    Raises
    ------
    InputError
        The data are backed; duplicates have to be summed and a matrix holds negative values or NaN; there are no cells
        or no genes; names and ids of more than a tenth of the genes contradict each other; or the table is not that of
        HGNC.
    MissingKeyError
        There is no such modality or column; the message lists the available ones.
    DownloadError
        The HGNC table could not be downloaded.

    Warns
    -----
    DataWarning
        Gene names are taken from an unusual column of `var`.

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
