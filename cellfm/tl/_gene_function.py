"""`cf.tl.gene_function`: how well embeddings predict the function of genes, compared with controls."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.select import select
from cellfm.errors import InputError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.keys import GENE_EMBEDDING
from cellfm.model import CellFM
from cellfm.tasks.genes import cross_validate, expression_summary, features_by_name, read_labels

Control = Literal["random", "expression", "permuted"]


@shared_docs
@checked
def gene_function(
    features: AnnData | MuData | pd.DataFrame | CellFM | str | Path,
    labels: Mapping[str, object] | pd.Series | pd.DataFrame | str | Path,
    *,
    task: Literal["binary", "multilabel"] = "binary",
    embedding_keys: Sequence[str] = (GENE_EMBEDDING.varm,),
    controls: Sequence[Control] = ("random", "expression", "permuted"),
    n_terms: int = 10,
    n_folds: int = 5,
    n_repeats: int = 5,
    learning_rate: float = 1e-4,
    n_epochs: int = 200,
    layer: str | None = None,
    modality: str = "rna",
    random_state: int = 0,
) -> pd.DataFrame:
    """Predict the function of genes from frozen embeddings by repeated cross-validation, with controls on the same
    folds.

    There are two classifiers: the paper's network (d - d/2 - d/4 - 1 without bias, SiLU, dropout 0.15; for many labels
    layer norm and d - 1028 - 512 - 256 - k, binary cross-entropy; Zeng 2025, "Gene function prediction") and logistic
    regression. Features are standardised on the training genes of a fold; the epoch (by macro AUROC) and the penalty
    (by micro AUPRC) are chosen on a fifth of them, never on the test genes. Rare labels get a higher weight.

    Parameters
    ----------
    features
        Cells x genes after `cf.tl.embed_genes`; or a table genes x dimensions (of any origin); or a model, its name or
        path, for its static embeddings of all its genes.
    labels
        For two classes: a dict or Series from genes to two values, or the path of a table with genes and values in its
        first two columns. For many labels: gene sets (a GMT file, a dict, an Enrichr name), or a table genes x labels
        of 0 and
        1. Genes are named as in the features.
    task
        ``"binary"`` or ``"multilabel"``.
    embedding_keys
        Embeddings in `varm` if `features` is AnnData; ``"cellfm"`` by default.
    controls
        ``"random"``: normal random numbers of the same shape; ``"expression"``: mean, detection rate and dispersion of
        the genes in these cells (AnnData only); ``"permuted"``: the first embedding with the labels shuffled.
    n_terms
        Number of gene sets, the largest first, to use as labels.
    n_folds, n_repeats
        Number of folds, and number of repetitions with other folds.
    learning_rate, n_epochs
        Learning rate and epochs of the network (Adam).
    layer
        Layer with the counts, for the expression control; by default X.
    {modality}
    random_state
        Seed of folds, weights and controls.

    Returns
    -------
    DataFrame, a row for each set of features, classifier, repeat and fold: ``features``, ``classifier``, ``repeat``,
    ``fold``, and ``auroc``, ``auprc``, ``accuracy``, ``macro_f1`` for two classes; micro ``auprc``, ``fmax`` and macro
    ``auroc`` for many labels. Nothing is written. `cf.pl.gene_function` draws it.

    Raises
    ------
    InputError
        There are not exactly two classes, a class has fewer than 10 genes, no labelled gene has features, or a control
        is unknown.
    MissingKeyError
        No such embedding.

    Examples
    --------
    >>> scores = cf.tl.gene_function("mini", labels, n_folds=3, n_repeats=1)
    >>> scores.groupby(["features", "classifier"])["auroc"].mean()
    """
    unknown = set(controls) - {"random", "expression", "permuted"}
    if unknown:
        raise InputError(f"Unknown controls: {', '.join(map(repr, unknown))}; expected random, expression, permuted.")
    on_cells = isinstance(features, AnnData | MuData)
    keys = list(embedding_keys) if on_cells else ["features"]
    tables = {key: features_by_name(features, key, modality) for key in keys}
    common = pd.Index(tables[keys[0]].index)
    for table in tables.values():
        common = common.intersection(table.index, sort=False)
    known = read_labels(labels, common, task, n_terms)
    x = {key: table.loc[known.index].to_numpy() for key, table in tables.items()}
    first, generator = x[keys[0]], np.random.default_rng(random_state)
    if "random" in controls:
        x["random"] = generator.standard_normal(first.shape).astype(np.float32)
    if "expression" in controls and on_cells:
        x["expression"] = expression_summary(select(features, modality), layer).loc[known.index].to_numpy()
    y = known.to_numpy()
    logger.info("%d labelled genes with features, %d labels.", *y.shape)
    validated = partial(
        cross_validate,
        n_folds=n_folds,
        n_repeats=n_repeats,
        recipe_options={"learning_rate": learning_rate, "n_epochs": n_epochs},
        random_state=random_state,
    )
    scores = [validated(x, y)]
    if "permuted" in controls:
        scores.append(validated({"permuted": first}, y[generator.permutation(len(y))]))
    return pd.concat(scores, ignore_index=True)
