"""`cf.pp.check`: whether a model can read the data."""

from pathlib import Path

from anndata import AnnData
from mudata import MuData

from cellfm.cells.inspection import inspect_data
from cellfm.cells.report import Report
from cellfm.cells.select import pick_table
from cellfm.genes.hgnc import load_synonyms
from cellfm.genes.vocabulary import HasVocabulary, Vocabulary, resolve_vocabulary
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs


@shared_docs
@checked
def check(
    data: AnnData | MuData,
    *,
    model: str | Path | Vocabulary | HasVocabulary = "mini",
    layer: str | None = None,
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    modality: str = "rna",
) -> Report:
    """Check data before they go to a model: are they counts, which genes are known, which cells are empty?

    All values are read, those of backed data block by block. Bad data do not raise an error: they become lines of
    `Report.problems` (why the model cannot read the data) and `Report.advice` (what makes the results poorer).

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
    A `Report`. It prints as a table, its fields hold the numbers, and `ok` is True if there are no problems. Nothing is
    written.

    Raises
    ------
    InputError
        `data`, `model` or `hgnc` is invalid.
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
