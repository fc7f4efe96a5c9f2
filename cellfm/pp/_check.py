"""`cf.pp.check`: can the model take these data?"""

from pathlib import Path

from anndata import AnnData
from mudata import MuData

from cellfm.cells.inspection import inspect_data
from cellfm.cells.report import Report
from cellfm.cells.select import pick_table
from cellfm.genes.hgnc import load_synonyms
from cellfm.genes.vocabulary import HasVocabulary, Vocabulary, resolve_vocabulary
from cellfm.io.docstrings import shared_docs


@shared_docs
def check(
    data: AnnData | MuData,
    *,
    model: str | Path | Vocabulary | HasVocabulary = "mini",
    layer: str | None = None,
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    modality: str = "rna",
) -> Report:
    """Look at data before they go to a model: counts or not, known genes, empty cells.

    All values are read, those of backed data block by block. Bad data never raise: they become lines of
    `Report.problems` (what keeps the model from taking them) and `Report.advice` (what makes the answer poorer).

    Parameters
    ----------
    data
        Cells x genes. With MuData, the table `modality`.
    {vocabulary_model}
    {layer}
    {gene_key}
    {hgnc}
    {modality}

    Returns
    -------
    A `Report`: shown as a table; its fields hold the figures, and `ok` says whether there are no problems. Nothing is
    written.

    Raises
    ------
    InputError
        `data`, `model` or `hgnc` is none of these things.
    MissingKeyError
        There is no such layer, modality or column; the message lists the available ones.

    Examples
    --------
    >>> report = cf.pp.check(adata)
    >>> report.ok, report.n_matched
    (True, 765)
    >>> cf.pp.check(log_normalised).ok
    False
    """
    adata = pick_table(data, modality)
    return inspect_data(adata, resolve_vocabulary(model), load_synonyms(hgnc), layer=layer, gene_key=gene_key)
