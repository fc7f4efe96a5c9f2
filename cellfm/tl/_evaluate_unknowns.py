"""`cf.tl.evaluate_unknowns`: how well methods recognise cells of a type that the reference lacks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.obs import read_complete_column
from cellfm.cells.select import select
from cellfm.errors import InputError
from cellfm.genes.match import MIN_KNOWN_GENES
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.progress import progress
from cellfm.model import CellFM, resolve_model
from cellfm.tasks.annotation._evaluation_set import read_subjects
from cellfm.tasks.annotation._labels import require_classes
from cellfm.tasks.annotation._methods import evaluate, features_of, require_methods, with_baselines
from cellfm.tasks.annotation._metrics import rejection_scores
from cellfm.tasks.annotation._split import leave_one_out_folds, random_folds, without_label


@shared_docs
@checked
def evaluate_unknowns(
    data: AnnData | MuData,
    model: str | Path | CellFM = "mini",
    *,
    labels_key: str,
    batch_key: str | None = None,
    left_out: Sequence[str] | None = None,
    methods: Sequence[str] = ("frozen", "knn"),
    n_folds: int = 5,
    layer: str | None = None,
    values_layer: str | None = None,
    modality: str = "rna",
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    batch_size: int | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
    random_state: int = 0,
) -> pd.DataFrame:
    """Measure how well annotation methods reject cells of a type that is missing from the training data.

    The cells are split once at random, or by batches: each batch in turn is then the query and the others are the
    reference, which is the harder task if batches are studies. Each type in turn is left out of the training data, and
    the methods give a confidence and a distance for the cells of this type and for the test cells of the other types.
    The AUROC is the probability that a cell of the left-out type looks more unknown than one of a known type.

    Parameters
    ----------
    data
        Cells with labels: counts, as for `cf.tl.embed`, in memory.
    {model}
    labels_key
        Column of `obs` with the labels, for every cell.
    batch_key
        Column of `obs` with the batches (studies, donors), for every cell; by default the test cells are drawn at
        random. A batch is tested on the labels that have more than 10 cells in the other batches.
    left_out
        The labels to leave out, each in turn; by default all.
    methods
        As for `cf.tl.evaluate_annotation`.
    n_folds
        Without `batch_key`, the cells are split into this many random parts, and one of them is the test set.
    {layer}
    values_layer
        Layer with values that you normalised yourself; see `cf.tl.evaluate_annotation`.
    {modality}
    {gene_key}
    {hgnc}
    {batch_size}
    {min_known_genes}
    random_state
        Seed of the split and of all fits.

    Returns
    -------
    DataFrame, a row for each left-out label and method, including the same heads on principal components and on
    variable genes (``"frozen-pca"``, ``"frozen-hvg"``; see `cf.tl.evaluate_annotation`): ``fold`` (the batch that is
    tested, ``"1"`` without batches), ``left_out``, ``method``, ``features`` (its input), ``n_unknown``, ``n_known``
    (test cells), ``auroc_confidence`` (by low confidence), ``auroc_distance`` (by large distance), ``auroc_both`` (by
    the larger of the two relative to their thresholds), ``unknown_rejected``, ``known_rejected`` (shares of these cells
    that the method's thresholds reject, after the adjustment that `cf.tl.annotate` makes for a displaced query). Each
    head measures the distance in its own input; logistic regression and celltypist have no distance (NaN). Nothing is
    written to `data`.

    Raises
    ------
    InputError
        The method or label is unknown; there are fewer than three classes; no batch has a left-out label beside others;
        or `cf.tl.evaluate_annotation` would refuse the data.
    MissingKeyError
        There is no such layer, modality or column; the message lists the available ones.

    Examples
    --------
    >>> table = cf.tl.evaluate_unknowns(adata, labels_key="cell_type", left_out=["Dendritic"], methods=["knn"])
    >>> table[["left_out", "method", "auroc_both"]]
    """
    names = list(methods)
    require_methods(names)
    adata = select(data, modality)
    labels = read_complete_column(adata, labels_key, "labels_key")
    require_classes(labels, labels_key)
    classes = [str(name) for name in np.unique(labels)]
    if len(classes) < 3:
        raise InputError(f"obs[{labels_key!r}] has two classes; with one left out, two or more must remain.")
    chosen = classes if left_out is None else list(left_out)
    if wrong := [name for name in chosen if name not in classes]:
        raise InputError(f"No label {wrong[0]!r} in obs[{labels_key!r}]; available: {', '.join(classes)}.")
    if batch_key is None:
        folds = random_folds(labels, n_folds, random_state=random_state)[:1]
    else:
        folds = leave_one_out_folds(labels, read_complete_column(adata, batch_key, "batch_key"))
    parted = [
        (label, fold)
        for whole in folds
        for label in chosen
        if (fold := without_label(labels, whole, label, with_its_training_cells=batch_key is None)) is not None
    ]
    if not parted:
        raise InputError(
            f"No batch of obs[{batch_key!r}] has one of these labels and two others that the other batches have."
        )
    on = read_subjects(
        adata,
        resolve_model(model),
        labels,
        layer=layer,
        values_layer=values_layer,
        gene_key=gene_key,
        hgnc=hgnc,
        min_known_genes=min_known_genes,
        batch_size=batch_size,
        random_state=random_state,
    )
    names = with_baselines(names, on)
    rows = []
    with progress(len(parted) * len(names), "evaluating", "fits") as bar:
        for label, fold in parted:
            unknown = labels[fold.test] == label
            sizes = {"n_unknown": int(unknown.sum()), "n_known": int((~unknown).sum())}
            for name in names:
                verdict = evaluate(name, on, fold, random_state=random_state)
                scores = rejection_scores(
                    unknown,
                    verdict.confidence,
                    verdict.distance,
                    confidence_threshold=verdict.confidence_threshold,
                    distance_threshold=verdict.distance_threshold,
                )
                which = {"fold": fold.name, "left_out": label, "method": name, "features": features_of(name)}
                rows.append(which | sizes | scores)
                bar.update(1)
    return pd.DataFrame(rows)
