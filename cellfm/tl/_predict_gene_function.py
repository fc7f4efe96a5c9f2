"""`cf.tl.predict_gene_function`: scores of unlabelled genes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.errors import InputError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.keys import GENE_EMBEDDING
from cellfm.model import CellFM
from cellfm.tasks.genes import LOGISTIC, MLP, features_by_name, fit_and_score, read_labels


@shared_docs
@checked
def predict_gene_function(
    features: AnnData | MuData | pd.DataFrame | CellFM | str | Path,
    labels: Mapping[str, object] | pd.Series | pd.DataFrame | str | Path,
    *,
    task: Literal["binary", "multilabel"] = "binary",
    classifier: Literal["logistic regression", "MLP"] = LOGISTIC,
    embedding_key: str = GENE_EMBEDDING.varm,
    n_terms: int = 10,
    learning_rate: float = 1e-4,
    n_epochs: int = 200,
    modality: str = "rna",
    random_state: int = 0,
) -> pd.DataFrame:
    """Score unlabelled genes with a classifier that is fitted to all labelled genes.

    Run `cf.tl.gene_function` first: it shows how far the scores can be trusted.

    Parameters
    ----------
    features
        Cells x genes after `cf.tl.embed_genes`; or a table genes x dimensions; or a model, its name or path.
    labels
        As for `cf.tl.gene_function`.
    task
        ``"binary"`` or ``"multilabel"``.
    classifier
        ``"logistic regression"`` or ``"MLP"``, the paper's network.
    embedding_key
        Embedding in `varm` if `features` is AnnData; ``"cellfm"`` by default.
    n_terms
        Number of gene sets, the largest first, to use as labels.
    learning_rate, n_epochs
        Learning rate and epochs of the network.
    {modality}
    random_state
        Seed.

    Returns
    -------
    DataFrame, unlabelled genes x labels: scores from 0 to 1, sorted by the first label. Classes have equal weight, so a
    score is not a frequency. Nothing is written.

    Raises
    ------
    InputError
        As for `cf.tl.gene_function`; or every gene has a label.
    MissingKeyError
        No such embedding.

    Examples
    --------
    >>> cf.tl.predict_gene_function("mini", labels).head(3)
    """
    if classifier not in (LOGISTIC, MLP):
        raise InputError(f"classifier must be {LOGISTIC!r} or {MLP!r}, not {classifier!r}.")
    table = features_by_name(features, embedding_key, modality)
    known = read_labels(labels, table.index, task, n_terms)
    others = table[~table.index.isin(known.index)]
    if not len(others):
        raise InputError("Every gene with features has a label already.")
    options = {"learning_rate": learning_rate, "n_epochs": n_epochs}
    scores = fit_and_score(
        table.loc[known.index].to_numpy(), known.to_numpy(), others.to_numpy(), classifier, options, random_state
    )
    found = pd.DataFrame(scores, index=others.index, columns=known.columns)
    return found.sort_values(known.columns[0], ascending=False)
