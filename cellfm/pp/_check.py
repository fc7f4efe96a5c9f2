"""`cf.pp.check`: can the model take these data?"""

from pathlib import Path

from anndata import AnnData
from mudata import MuData

from cellfm.cells.inspection import inspect_data
from cellfm.cells.report import Report
from cellfm.cells.select import pick_table
from cellfm.genes.hgnc import load_synonyms
from cellfm.genes.vocabulary import HasVocabulary, Vocabulary, resolve_vocabulary


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
    model
        A model, its name (``"mini"``, or ``"80M"`` and ``"800M"`` once they are in the cache), the path of a model
        folder or of a vocabulary table. Only the vocabulary is read.
    layer
        Layer with the counts; ``"raw"`` means `adata.raw`; by default X.
    gene_key
        Column of `var` with the gene names, or ``"var_names"``, where the automatic
        choice is wrong.
    hgnc
        Table of previous symbols and aliases: None for that of HGNC where it was fetched before, else that of the
        package; path of the HGNC complete set; ``"download"`` (into `cf.settings.cache_dir`); False for none.
    modality
        Table of a MuData.

    Returns
    -------
    A `Report`: shown as a table; its fields hold the figures, and `ok` says whether there are no problems. Nothing is
    written.

    Raises
    ------
    InputError
        `data`, `model` or `hgnc` is none of these things.
    MissingKeyError
        No such layer, modality or column; the message lists those there are.

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
