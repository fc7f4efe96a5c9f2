"""`cf.pp.prepare`: check data, harmonise gene names, remove poor cells."""

from pathlib import Path

import numpy as np
from anndata import AnnData
from mudata import MuData

from cellfm.cells.harmonize import merge_matrices, name_genes, write_genes
from cellfm.cells.inspection import count_known, inspect_data
from cellfm.cells.matrix import read_matrix
from cellfm.cells.outputs import writing
from cellfm.cells.select import refresh, require_in_memory, select
from cellfm.errors import InputError
from cellfm.genes.hgnc import load_synonyms
from cellfm.genes.match import MIN_KNOWN_GENES
from cellfm.genes.panel import panel_limit
from cellfm.genes.vocabulary import HasVocabulary, Vocabulary, resolve_vocabulary
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.io.messages import counted_of, warn

_SHARE_KEPT = 0.5
"""Minimum share of the cells that the default limit must keep."""


@shared_docs
@checked
def prepare(
    data: AnnData | MuData,
    *,
    model: str | Path | Vocabulary | HasVocabulary = "mini",
    layer: str | None = None,
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    min_genes: int | None = None,
    modality: str = "rna",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Prepare data for a model: check them, rename genes, remove cells with few known genes.

    This runs `cf.pp.check`, which must find no problem, then `cf.pp.harmonize_genes`, then a filter: **cells that
    express fewer than `min_genes` genes that the model knows are removed**, and a warning says how many. If the default
    limit would remove more than half of the cells, as with panels of a few hundred genes, an error says what other
    limits would do. If anything fails, the data stay unchanged.

    Parameters
    ----------
    data
        Counts, cells x genes, in memory. With MuData, the table `modality`.
    {vocabulary_model}
    layer
        Layer with the counts; by default X.
    {gene_key}
    {hgnc}
    min_genes
        Minimum number of known genes that a cell must express; 0 keeps all cells. By default 200, as in the paper, if
        at least half of the cells stay.
    {modality}
    copy
        Return a copy instead of changing `data`.

    Returns
    -------
    None, or the copy. Removes cells, and sets:

    `var_names`
        The model's names, which are unique.
    `var["cellfm_original_name"]`
        str: the original name of the gene.
    `var["cellfm_match"]`
        categorical: how the gene was matched (symbol, ensembl, restored, previous, alias, none).
    `uns["cellfm"]["genes"]`
        dict: how many genes were matched in each way, renamed and merged; hashes of the vocabulary and the HGNC table.

    Raises
    ------
    InputError
        `cf.pp.check` finds a problem (no counts, too few known genes, no cells, no genes); no cell would stay, or fewer
        than half of them with the default limit; the data are backed; or `layer="raw"`.
    MissingKeyError
        There is no such layer, modality or column; the message lists the available ones.
    DownloadError
        The HGNC table could not be downloaded.

    Warns
    -----
    DataWarning
        Cells were removed.

    Examples
    --------
    >>> cf.pp.prepare(adata, min_genes=100)
    >>> adata.var_names[:3].tolist()
    ['HES4', 'TNFRSF4', 'SSU72']
    """
    adata = select(data, modality)
    require_in_memory(adata, "cf.pp.prepare")
    if layer == "raw" and "raw" not in adata.layers:
        raise InputError("adata.raw cannot be changed: call adata = adata.raw.to_adata() first, and leave out layer=.")
    vocab = resolve_vocabulary(model)
    synonyms = load_synonyms(hgnc)
    least = MIN_KNOWN_GENES if min_genes is None else min_genes
    report = inspect_data(adata, vocab, synonyms, layer=layer, gene_key=gene_key, min_genes=least)
    if report.problems:
        raise InputError("\n".join(report.problems))
    naming = name_genes(adata.var, vocab, synonyms, gene_key=gene_key)
    blocks = read_matrix(adata, layer).blocks()
    n_expressed = np.concatenate([count_known(block, naming.match.ids) for _, block in blocks])
    kept = n_expressed >= least
    if not kept.any() or (min_genes is None and kept.mean() < _SHARE_KEPT):
        raise InputError(_too_few_left(n_expressed, least, naming.match.n_distinct))
    merged = merge_matrices(adata, naming)

    if not kept.all():  # warn before anything changes, because the warning may be turned into an error
        warn(
            f"{counted_of(report.n_few, report.n_cells, 'cell')} removed for expressing fewer than {least} genes that "
            "the model knows. min_genes= sets the limit; 0 keeps all cells."
        )
    with writing(data, modality=modality, copy=copy) as out:
        write_genes(out.data, out.adata, naming, merged, vocab, synonyms.sha256)
        if not kept.all():
            out.adata._inplace_subset_obs(kept)
            refresh(out.data)
    logger.info("kept %d of %d cells and %d genes.", int(kept.sum()), len(kept), out.adata.n_vars)
    return out.returned


def _too_few_left(n_expressed: np.ndarray, least: int, n_known: int) -> str:
    """The error if the default limit removes too many cells, with the effect of other limits."""
    n_cells, n_few = len(n_expressed), int((n_expressed < least).sum())
    express = counted_of(n_few, n_cells, "cell", "expresses", "express")
    express = f"All {n_cells:,} cells express" if n_few == n_cells > 1 else express
    message = (
        f"{express} fewer than {least} genes that the model "
        f"knows (the median is {np.median(n_expressed):.6g}, of {n_known:,} known genes in the data), and would "
        "be removed. "
    )
    if (panel := panel_limit(n_known)) < least:
        n_gone = int((n_expressed < panel).sum())
        message += f"Cells of a small panel express few: min_genes={panel} would remove {n_gone:,} of them. "
    return message + "Pass min_genes= with a limit that suits the data; 0 keeps all cells."
