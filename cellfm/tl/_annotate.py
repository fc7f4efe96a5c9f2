"""`cf.tl.annotate`: labels for cells, from a fitted annotator or from a reference."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.input_options import InputOptions
from cellfm.cells.obs import read_column
from cellfm.cells.outputs import writing
from cellfm.cells.select import select
from cellfm.errors import InputError
from cellfm.genes.match import MIN_KNOWN_GENES
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.io.messages import counted_of, of_reference, warn
from cellfm.keys import ANNOTATION, UNKNOWN
from cellfm.model import CellFM, resolve_model
from cellfm.model._cells import CellInput, embed_cells, read_input, stored_or_new_embedding
from cellfm.tasks.annotation._annotator import Annotator
from cellfm.tasks.annotation._calibrate import check_thresholds
from cellfm.tasks.annotation._files import FILES
from cellfm.tasks.annotation._labels import UNKNOWN_COLOR, label_colors, read_labels
from cellfm.tasks.annotation._panel import on_shared_genes
from cellfm.tasks.annotation._train import check_options, train_annotator
from cellfm.tasks.annotation._vote import find_clusters, vote


@shared_docs
def annotate(
    data: AnnData | MuData,
    annotator: Annotator | str | Path | None = None,
    *,
    reference: AnnData | MuData | None = None,
    labels_key: str | None = None,
    model: str | Path | CellFM = "mini",
    method: Literal["frozen", "lora", "full"] = "frozen",
    head: Literal["mlp", "query"] = "mlp",
    layer: str | None = None,
    reference_layer: str | None = None,
    values_layer: str | None = None,
    modality: str = "rna",
    gene_key: str | None = None,
    reference_gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    shared_genes: bool = True,
    confidence_threshold: float | None = None,
    distance_threshold: float | None = None,
    majority_voting: bool | str = False,
    save_annotator: str | Path | None = None,
    overwrite: bool = False,
    batch_size: int | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Give each cell the label of its type.

    Takes an annotator that `cf.tl.fit_annotator` made, or fits one to a `reference` on the way. The second is better
    where query and reference have measured different genes: then the annotator is fitted to the genes that both have,
    because cells lie apart in the embedding by their panel alone.

    Parameters
    ----------
    data
        The cells to label: counts, as for `cf.tl.embed`.
    annotator
        An annotator or the folder of a saved one.
    reference
        Cells with labels, where no annotator is given: counts; the genes may be others.
    labels_key
        Column of `reference.obs` with the labels.
    model
        The model to fit to the reference; an annotator has its own.
    method
        What is trained on the reference: ``"frozen"``, ``"lora"`` or ``"full"``; see `cf.tl.fit_annotator`.
    head
        ``"mlp"`` or ``"query"``; see `cf.tl.fit_annotator`.
    layer
        Layer of `data` with the counts; ``"raw"`` means `adata.raw`; by default X.
    reference_layer
        The same for the reference.
    values_layer
        Layer of values that you normalised yourself, in both tables, to take in place of log1p of counts per 10,000.
    {modality}
    gene_key
        Column of `data.var` with the gene names, or ``"var_names"``, where the automatic
        choice is wrong.
    reference_gene_key
        The same for the reference.
    {hgnc}
    shared_genes
        Fit to the genes that reference and query share; otherwise each shows all of its genes.
    confidence_threshold
        Confidence below which a cell is ``"Unknown"``, 0 to 1; 0 rejects none. By default that of the annotator.
    distance_threshold
        Distance above which a cell is ``"Unknown"``; `numpy.inf` rejects none. By default that of the annotator,
        widened label by label where the query is displaced from the reference, as cells of another study are: by the
        displacement of the label's cells, up to 1.5 times that of the least displaced other label, and at most to 1.5
        times the threshold. So it depends on the other cells of the query; a number of yours does not.
    majority_voting
        Give all cells of a cluster the label that most of them have, which may be ``"Unknown"``: clusters of a column
        of `obs`, or True for small ones of the neighbour graph of the embedding (Leiden, as in celltypist).
    save_annotator
        Folder to keep the annotator in that was fitted to the reference.
    overwrite
        Replace the annotator that is in `save_annotator` already; a folder of anything else is never replaced.
    {batch_size}
    min_known_genes
        Least number of genes that the model must know, and that both tables must share.
    random_state
        Seed of the fit and of the clusters.
    {copy}

    Returns
    -------
    None, or the copy. Sets:

    `obs["cellfm_label"]`
        categorical: the label, ``"Unknown"`` where the cell is rejected.
    `obs["cellfm_label_raw"]`
        categorical: the most probable label, before rejection and majority vote; missing for cells that express no
        known gene.
    `obs["cellfm_confidence"]`
        float32: calibrated probability of the raw label; NaN for cells that express no known gene.
    `obs["cellfm_distance"]`
        float32: Mahalanobis distance to the nearest class of the reference; 1 is the median of its own cells, NaN for
        cells that express no known gene.
    `obsm["cellfm_proba"]`
        float32, (n_obs, n_classes): calibrated probability of each class.
    `uns["cellfm_label_colors"]`, `uns["cellfm_label_raw_colors"]`
        list of str: the colours of the labels, those of the reference where it has any; ``"Unknown"`` is grey.
    `uns["cellfm"]["cellfm_proba"]`
        dict: the names of the classes (``"classes"``), the thresholds (``"confidence_threshold"``,
        ``"distance_threshold"``, and ``"distance_thresholds"``: the distance for each class as it was applied to this
        query), model, hashes, genes matched, seed, version.

    Warns
    -----
    DataWarning
        More than half of the cells with a label are rejected: by label, how many of how many, and how many by distance.
        Cells that express no gene that is used; many genes of the reference that the query lacks.

    Raises
    ------
    InputError
        Neither annotator nor reference, or both; no counts; no common gene; a threshold out of range; `save_annotator`
        exists and `overwrite` is false, or it cannot be written; what `cf.tl.fit_annotator` refuses.
    CheckpointError
        A saved annotator is damaged.
    MissingKeyError
        No such layer, modality or column; the message lists those there are.

    Examples
    --------
    >>> cf.tl.annotate(query, reference=reference, labels_key="cell_type")
    >>> query.obs[["cellfm_label", "cellfm_confidence"]].head()
    """
    if (annotator is None) == (reference is None):
        raise InputError("Pass either an annotator (see cf.tl.fit_annotator) or reference= with labels_key=.")
    if reference is not None and labels_key is None:
        raise InputError("Pass labels_key= with the column of reference.obs that holds the labels.")
    check_thresholds(confidence_threshold, distance_threshold)
    if reference is not None:
        check_options(method, head)
    if save_annotator is not None:
        if reference is None:
            raise InputError(f"save_annotator={str(save_annotator)!r}: there is no reference to fit an annotator to.")
        FILES.check_target(Path(save_annotator), overwrite=overwrite)
    adata = select(data, modality)
    clusters = read_column(adata, majority_voting, "majority_voting") if isinstance(majority_voting, str) else None
    known = None if reference is None else select(reference, modality)
    with of_reference():
        labels = None if known is None else read_labels(known, labels_key)
    if isinstance(annotator, str | Path):
        annotator = Annotator.load(annotator)
    loaded = resolve_model(model) if annotator is None else annotator.model
    options = InputOptions(
        layer=layer, values_layer=values_layer, gene_key=gene_key, hgnc=hgnc, min_known_genes=min_known_genes
    )
    cells = read_input(adata, loaded.vocab, options)
    if annotator is None:
        with of_reference():
            source = read_input(
                known, loaded.vocab, replace(options, layer=reference_layer, gene_key=reference_gene_key)
            )
        if known is adata or (known.shape == adata.shape and known.obs_names.equals(adata.obs_names)):
            warn("The reference seems to be the query itself: the labels of its own cells were there to learn from.")
        if shared_genes:
            cells, source = _shared(cells, source, min_known_genes)
        with of_reference():
            embedding = stored_or_new_embedding(known, loaded, source, random_state=random_state)
        annotator = train_annotator(
            loaded, source, labels, embedding=embedding, method=method, head=head, random_state=random_state
        )
        annotator = replace(annotator, colors=tuple(label_colors(known, labels_key, list(annotator.classes))))
        if save_annotator is not None:
            annotator.save(save_annotator, overwrite=overwrite)
    annotator.check_genes(cells)
    least, most = annotator.thresholds(confidence_threshold, distance_threshold)

    embedding = None
    seed = annotator.random_state
    if annotator.method == "frozen" and annotator.head.kind == "mlp":
        embedding = stored_or_new_embedding(adata, loaded, cells, batch_size=batch_size, random_state=seed)
    found = annotator.predict_cells(cells, embedding=embedding, batch_size=batch_size)
    rejection = found.reject(least, most, inflate_distances=distance_threshold is None)
    if n_empty := int(np.isnan(found.distance).sum()):
        said = counted_of(n_empty, adata.n_obs, "cell", "expresses", "express")
        warn(f"{said} no gene that is used: labelled {UNKNOWN!r}.")
    rejection.warn(annotator.classes)
    names = np.array([*annotator.classes, UNKNOWN], object)
    label = rejection.labels(annotator.classes)
    if majority_voting is True:
        if embedding is None:
            embedding = embed_cells(annotator.model, cells, batch_size=batch_size, random_state=seed)
        clusters = find_clusters(embedding, random_state=random_state)
    if clusters is not None:
        label = vote(label, clusters)

    with writing(data, modality=modality, copy=copy) as out:
        out.adata.obs[ANNOTATION.raw] = pd.Categorical.from_codes(found.codes, names[:-1])
        out.adata.obs[ANNOTATION.label] = pd.Categorical(label, names)
        out.adata.obs[ANNOTATION.confidence] = found.confidence
        out.adata.obs[ANNOTATION.distance] = found.distance
        out.adata.obsm[ANNOTATION.proba] = found.probabilities
        out.adata.uns[f"{ANNOTATION.raw}_colors"] = list(annotator.colors)
        out.adata.uns[f"{ANNOTATION.label}_colors"] = [*annotator.colors, UNKNOWN_COLOR]
        out.record(
            ANNOTATION.proba,
            **{ANNOTATION.classes: np.array(annotator.classes, dtype=object)},
            method=annotator.method,
            head=annotator.head.kind,
            labels_key=labels_key,
            n_reference_cells=annotator.n_cells,
            temperature=annotator.temperature,
            confidence_threshold=float(least),
            distance_threshold=float(most),
            distance_thresholds=rejection.distance_thresholds,
            **cells.facts(annotator.model, seed),
        )
    n_unknown = int((label == UNKNOWN).sum())
    logger.info("labelled %d cells, %d of them %s.", out.adata.n_obs, n_unknown, UNKNOWN)
    return out.returned


def _shared(query: CellInput, reference: CellInput, least: int) -> tuple[CellInput, CellInput]:
    """Both on the genes that they share; the user hears what is left of them."""
    before = query.match.n_distinct, reference.match.n_distinct
    query, reference = on_shared_genes(query, reference, least=least)
    if (n := query.match.n_distinct) < max(before):
        logger.info("query and reference share %d genes (of %d and %d); the others are left out.", n, *before)
    return query, reference
