"""`cf.tl.evaluate_annotation`: how well annotation methods label unseen cells, compared with simple baselines."""

import time
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
from cellfm.genes.text import column_names
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.io.progress import progress
from cellfm.model import CellFM, resolve_model
from cellfm.tasks.annotation._evaluation_set import read_subjects
from cellfm.tasks.annotation._labels import require_classes
from cellfm.tasks.annotation._methods import evaluate, features_of, require_methods, with_baselines
from cellfm.tasks.annotation._metrics import class_table, confusion_table, label_scores
from cellfm.tasks.annotation._split import Fold, given_folds, leave_one_out_folds, random_folds

RANDOM = "random"
LEAVE_ONE_BATCH_OUT = "leave-one-batch-out"


@shared_docs
@checked
def evaluate_annotation(
    data: AnnData | MuData,
    model: str | Path | CellFM = "mini",
    *,
    labels_key: str,
    batch_key: str | None = None,
    split: str = RANDOM,
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
    """Measure how well annotation methods label unseen cells.

    Each method is fitted to the training cells of each fold, makes its choices on a part of these, and predicts the
    test cells once. On the same folds, the same heads are also fitted to the 2,000 most variable genes (log-normalised)
    and to their 50 principal components instead of the model's embedding, so that the contribution of the model can be
    told from that of the head. Further baselines are logistic regression on these components, with the defaults of
    scikit-learn, and celltypist if it is installed. Genes and components are chosen on the training cells only. Scores
    are those of the most probable label; `cf.tl.evaluate_unknowns` evaluates rejection.

    Cells are embedded once for all folds and methods, or not at all if `obsm["X_cellfm"]` comes from this model.

    Parameters
    ----------
    data
        Cells with labels: counts, as for `cf.tl.embed`, in memory.
    {model}
    labels_key
        Column of `obs` with the labels, for every cell.
    batch_key
        Column of `obs` with the batches, for ``split="leave-one-batch-out"`` and for the method ``"auto"``, which
        chooses by the batches that are left for training. It is not read otherwise.
    split
        ``"random"``: `n_folds` stratified folds. ``"leave-one-batch-out"``: each batch in turn is the test set; a fold
        uses the classes with more than 10 training cells that also occur in the test set. A column of `obs`: one fold
        if it holds ``"train"`` and ``"test"``, otherwise each of its values in turn is the test set.
    methods
        ``"frozen"``, ``"frozen-2"``, ``"frozen-3"``: the unchanged model, with a head of 1, 2 or 3 layers on the
        embedding; ``"query"``: a head that reads the gene tokens; ``"lora"`` (or ``"lora-8"`` and so on, with the rank
        of the adapters) and ``"full"``: the model is fitted too; ``"auto"``: what `cf.tl.fit_annotator` chooses on the
        training cells; ``"knn"``: a vote of the nearest training cells.
    n_folds
        Number of random folds.
    {layer}
    values_layer
        Layer with values that you normalised yourself; for the model they replace log1p of counts per 10,000. The
        baselines still read `layer`.
    {modality}
    {gene_key}
    {hgnc}
    {batch_size}
    {min_known_genes}
    random_state
        Seed of the folds and of all fits.

    Returns
    -------
    DataFrame, a row for each fold and method: ``fold``, ``method``, ``features`` (the input of the method: ``"model"``,
    ``"pca"``, ``"hvg"``, or ``"genes"`` for all genes; ``"auto"`` may read all of them), ``n_train``, ``n_test``
    (cells), ``accuracy``, ``macro_f1`` (the mean over classes), ``weighted_f1`` (weighted by their cells), ``seconds``
    (fitting and predicting, without the embedding). ``"frozen-pca"`` and ``"frozen-hvg"`` are the head of ``"frozen"``
    on principal components and on variable genes; ``"knn"`` and deeper heads have the same baselines. Compare
    ``"query"``, ``"lora"``, ``"full"`` and ``"auto"`` with the baselines of ``"frozen"``. Its `attrs` hold:

    ``"by_class"``
        list of dict, for `pandas.DataFrame`: ``fold``, ``method``, ``label``, ``precision``, ``recall``, ``f1``,
        ``n_cells``.
    ``"confusion"``
        dict of method to dict, for `pandas.DataFrame`: cells by predicted label (columns) and true label (rows), over
        all folds.

    Nothing is written to `data`.

    Raises
    ------
    InputError
        The method or split is unknown; some cells have no label; there is only one class or one batch, or a class of
        one cell; there are no counts or too few known genes.
    MissingKeyError
        There is no such layer, modality or column; the message lists the available ones.

    Examples
    --------
    >>> table = cf.tl.evaluate_annotation(adata, labels_key="cell_type", methods=["knn"], n_folds=2)
    >>> table.groupby("method")[["accuracy", "macro_f1"]].mean()
    """
    names = list(methods)
    require_methods(names)
    adata = select(data, modality)
    labels = read_complete_column(adata, labels_key, "labels_key")
    require_classes(labels, labels_key)
    folds = _folds(adata, labels, split, batch_key, n_folds, random_state)
    of_auto = batch_key if "auto" in names else None
    groups = None if of_auto is None else read_complete_column(adata, of_auto, "batch_key")
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
        groups=groups,
    )
    names = with_baselines(names, on)
    rows: list[dict] = []
    by_class: list[dict] = []
    said: dict[str, list[np.ndarray]] = {name: [] for name in names}
    with progress(len(folds) * len(names), "evaluating", "fits") as bar:
        for fold in folds:
            truth = labels[fold.test]
            for name in names:
                start = time.perf_counter()
                verdict = evaluate(name, on, fold, random_state=random_state)
                seconds = time.perf_counter() - start
                scores = label_scores(truth, verdict.labels)
                which = {"fold": fold.name, "method": name}
                what = {"features": features_of(name)}
                sizes = {"n_train": len(fold.train), "n_test": len(fold.test)}
                rows.append(which | what | sizes | scores | {"seconds": seconds})
                by_class += [which | row for row in class_table(truth, verdict.labels).to_dict("records")]
                said[name].append(verdict.labels)
                logger.info("fold %s, %s: accuracy %.3f, macro F1 %.3f.", fold.name, name, *list(scores.values())[:2])
                bar.update(1)
    table = pd.DataFrame(rows)
    truth = np.concatenate([labels[fold.test] for fold in folds])
    table.attrs["by_class"] = by_class
    table.attrs["confusion"] = {
        name: confusion_table(truth, np.concatenate(parts)).to_dict() for name, parts in said.items()
    }
    return table


def _folds(
    adata: AnnData, labels: np.ndarray, split: str, batch_key: str | None, n_folds: int, random_state: int
) -> list[Fold]:
    if split == RANDOM:
        return random_folds(labels, n_folds, random_state=random_state)
    if split == LEAVE_ONE_BATCH_OUT:
        if batch_key is None:
            raise InputError(f"split={split!r} needs batch_key=, the column of obs with the batches.")
        batches = read_complete_column(adata, batch_key, "batch_key")
        return leave_one_out_folds(labels, batches)
    if split not in adata.obs:
        raise InputError(
            f"split must be {RANDOM!r}, {LEAVE_ONE_BATCH_OUT!r} or a column of obs, not {split!r}. "
            f"Columns: {column_names(adata.obs)}."
        )
    return given_folds(labels, read_complete_column(adata, split, "split"))
