"""`cf.tl.annotate`: labels for cells, from a fitted annotator or from a reference."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from anndata import AnnData
from mudata import MuData

from cellfm.cells.input import CellInput, read_input
from cellfm.cells.input_options import InputOptions
from cellfm.cells.obs import read_column
from cellfm.cells.outputs import writing
from cellfm.cells.select import select
from cellfm.errors import InputError
from cellfm.genes.match import MIN_KNOWN_GENES
from cellfm.io.arguments import checked, passed_arguments
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.io.messages import of_reference
from cellfm.keys import ANNOTATION, UNKNOWN
from cellfm.model import CellFM, resolve_model
from cellfm.model._embed import embed_cells, stored_or_new_embedding
from cellfm.tasks.annotation._annotator import Annotator
from cellfm.tasks.annotation._files import FILES
from cellfm.tasks.annotation._labelling import Labelling
from cellfm.tasks.annotation._labels import label_colors, read_groups, read_labels
from cellfm.tasks.annotation._panel import read_query_and_reference
from cellfm.tasks.annotation._train import check_options, train_annotator
from cellfm.tasks.annotation._vote import find_clusters, vote

_OF_FIT = ("labels_key", "model", "method", "head", "groups_key")
"""Arguments by which an annotator is fitted to a reference, as in `cf.tl.fit_annotator`."""
_OF_REFERENCE = ("reference_layer", "reference_gene_key", "shared_genes")
"""Those of the same purpose that only `cf.tl.annotate` has."""


@shared_docs
@checked
def annotate(
    data: AnnData | MuData,
    annotator: Annotator | str | Path | None = None,
    *,
    reference: AnnData | MuData | None = None,
    labels_key: str | None = None,
    model: str | Path | CellFM = "mini",
    method: Literal["frozen", "lora", "full", "auto"] = "frozen",
    head: Literal["mlp", "query"] = "mlp",
    groups_key: str | None = None,
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
    """Predict the cell type of each cell.

    The function takes an annotator from `cf.tl.fit_annotator`, or fits one to a `reference` first. Pass a `reference`
    if the two tables have different genes: the annotator is then fitted to the genes that both share, because a
    different gene panel alone moves cells in the embedding.

    The options of the fit, from `labels_key` to `groups_key`, and `reference_layer`, `reference_gene_key` and
    `shared_genes`, go with a `reference`; an annotator that is passed has been fitted, and they are refused.

    Parameters
    ----------
    data
        The cells to label: counts, as for `cf.tl.embed`.
    annotator
        An annotator, or the folder of a saved one.
    reference
        Labelled cells to fit an annotator to: counts; their genes may differ from those of `data`.
    labels_key
        Column of `reference.obs` with the labels.
    model
        The model to fit to the reference. An annotator has its own model.
    method
        What to train on the reference: ``"frozen"``, ``"lora"``, ``"full"`` or ``"auto"``; see
        `cf.tl.fit_annotator`.
    head
        ``"mlp"`` or ``"query"``; see `cf.tl.fit_annotator`.
    groups_key
        Column of `reference.obs` with donors or batches, for ``method="auto"``; see `cf.tl.fit_annotator`.
    layer
        Layer of `data` with the counts; ``"raw"`` means `adata.raw`; by default X.
    reference_layer
        The same for the reference.
    values_layer
        Layer, in both tables, with values that you normalised yourself; they replace log1p of counts per 10,000.
    {modality}
    gene_key
        Column of `data.var` with the gene names, or ``"var_names"``, where the automatic
        choice is wrong.
    reference_gene_key
        The same for the reference.
    {hgnc}
    shared_genes
        Use only the genes that reference and query share; otherwise use all genes of each table.
    confidence_threshold
        Cells with a lower confidence become ``"Unknown"``; 0 to 1, where 0 rejects none. By default the annotator's
        threshold.
    distance_threshold
        Cells with a larger distance become ``"Unknown"``; `numpy.inf` rejects none. By default the annotator's
        threshold, raised for each label whose cells are displaced from the reference, as cells of another study are: by
        the displacement of the label's cells, up to 1.5 times that of the least displaced other label, and to at most
        1.5 times the threshold. The default therefore depends on the other cells of the query; a number that you pass
        does not.
    majority_voting
        Give all cells of a cluster the most frequent label in it, which may be ``"Unknown"``. Pass a column of `obs`
        with clusters, or True for small Leiden clusters of the neighbour graph of the embedding, as in celltypist.
    save_annotator
        Folder in which to save the annotator that was fitted to the reference.
    overwrite
        Replace an annotator that is already in `save_annotator`. A folder with other contents is never replaced.
    {batch_size}
    min_known_genes
        Minimum number of genes that the model must know, and that both tables must share.
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
        float32: Mahalanobis distance to the nearest class of the reference, divided by the median distance of that
        class's own cells; NaN for cells that express no known gene.
    `obsm["cellfm_proba"]`
        float32, (n_obs, n_classes): calibrated probability of each class.
    `uns["cellfm_label_colors"]`, `uns["cellfm_label_raw_colors"]`
        list of str: the colours of the labels, taken from the reference if it has any; ``"Unknown"`` is grey.
    `uns["cellfm"]["cellfm_proba"]`
        dict: the names of the classes (``"classes"``), the thresholds (``"confidence_threshold"``,
        ``"distance_threshold"``, and ``"distance_thresholds"``: the threshold of each class as applied to this query),
        model, hashes, genes matched, seed, version. With ``method="auto"`` also the choice in words (``"choice"``), the
        candidates and their mean accuracy in cross-validation (``"candidates"``, ``"scores"``).

    Warns
    -----
    DataWarning
        More than half of the cells of a label are rejected; the message gives the numbers by label. Some cells express
        none of the genes that are used. The query lacks many genes of the reference.

    Raises
    ------
    InputError
        Neither or both of annotator and reference are given; an option of the fit is given for an annotator; there are
        no counts or no common genes; a threshold is out of range; `save_annotator` exists and `overwrite` is false, or
        it cannot be written; or `cf.tl.fit_annotator` refuses the reference.
    CheckpointError
        A saved annotator is damaged.
    MissingKeyError
        There is no such layer, modality or column; the message lists the available ones.

    Examples
    --------
    >>> cf.tl.annotate(query, reference=reference, labels_key="cell_type")
    >>> query.obs[["cellfm_label", "cellfm_confidence"]].head()
    """
    given = _given(annotator, reference, labels_key)
    if isinstance(given, tuple):
        check_options(method, head)
    if save_annotator is not None:
        if not isinstance(given, tuple):
            raise InputError(f"save_annotator={str(save_annotator)!r}: there is no reference to fit an annotator to.")
        FILES.check_target(Path(save_annotator), overwrite=overwrite)
    adata = select(data, modality, copy=copy)
    clusters = read_column(adata, majority_voting, "majority_voting") if isinstance(majority_voting, str) else None
    options = InputOptions(
        layer=layer, values_layer=values_layer, gene_key=gene_key, hgnc=hgnc, min_known_genes=min_known_genes
    )
    if not isinstance(given, tuple):
        fitted = Annotator.load(given) if isinstance(given, str | Path) else given
        cells = read_input(adata, fitted.model.vocab, options)
    else:
        known, column = given
        of_source = replace(options, layer=reference_layer, gene_key=reference_gene_key)
        cells, fitted = _fit(
            adata,
            select(known, modality),
            model,
            (options, of_source),
            labels_key=column,
            shared=shared_genes,
            method=method,
            head=head,
            groups_key=groups_key,
            random_state=random_state,
        )
        if save_annotator is not None:
            fitted.save(save_annotator, overwrite=overwrite)
    fitted.check_genes(cells)
    thresholds = fitted.thresholds(confidence_threshold, distance_threshold)

    embedding, seed = None, fitted.random_state
    if fitted.reads_embedding:
        embedding = stored_or_new_embedding(adata, fitted.model, cells, batch_size=batch_size, random_state=seed)
    found = fitted.predict_cells(cells, embedding=embedding, batch_size=batch_size)
    labelling = Labelling.of(found, fitted.classes, thresholds, inflate=distance_threshold is None)
    if majority_voting is True:
        if embedding is None:
            embedding = embed_cells(fitted.model, cells, batch_size=batch_size, random_state=seed)
        clusters = find_clusters(embedding, random_state=random_state)
    label = labelling.labels if clusters is None else vote(labelling.labels, clusters)

    with writing(data, modality=modality, copy=copy) as out:
        out.write(labelling.results(label, fitted.colors))
        out.record(
            ANNOTATION.proba,
            "obsm",
            () if isinstance(given, tuple) else (*_OF_FIT, *_OF_REFERENCE),
            **labelling.facts(),
            **fitted.facts(),
            labels_key=labels_key,
            **cells.facts(fitted.model, seed),
        )
    logger.info("labelled %d cells, %d of them %s.", adata.n_obs, int((label == UNKNOWN).sum()), UNKNOWN)
    return out.returned


def _given(
    annotator: Annotator | str | Path | None, reference: AnnData | MuData | None, labels_key: str | None
) -> Annotator | str | Path | tuple[AnnData | MuData, str]:
    """Where labels come from: an annotator, or a reference and its column with the labels."""
    if annotator is not None and reference is None:
        if refused := [name for name in (*_OF_FIT, *_OF_REFERENCE) if name in passed_arguments()]:
            elsewhere = "pass it to cf.tl.fit_annotator, or " if refused[0] in _OF_FIT else ""
            raise InputError(
                f"{refused[0]}= belongs to fitting an annotator, and this one is fitted already. Leave it out, or "
                f"{elsewhere}fit to a reference=."
            )
        return annotator
    if annotator is not None or reference is None:
        raise InputError("Pass either an annotator (see cf.tl.fit_annotator) or reference= with labels_key=.")
    if labels_key is None:
        raise InputError("Pass labels_key= with the column of reference.obs that contains the labels.")
    return reference, labels_key


def _fit(
    query: AnnData,
    reference: AnnData,
    model: str | Path | CellFM,
    options: tuple[InputOptions, InputOptions],
    *,
    labels_key: str,
    shared: bool,
    method: Literal["frozen", "lora", "full", "auto"],
    head: Literal["mlp", "query"],
    groups_key: str | None,
    random_state: int,
) -> tuple[CellInput, Annotator]:
    """The query as the model reads it, and an annotator for it that is fitted to the reference."""
    with of_reference():
        labels = read_labels(reference, labels_key)
        groups = read_groups(reference, groups_key, labels, method)
    loaded = resolve_model(model)
    cells, source = read_query_and_reference(query, reference, loaded.vocab, options, shared=shared)
    with of_reference():
        embedding = stored_or_new_embedding(reference, loaded, source, random_state=random_state)
    annotator = train_annotator(
        loaded, source, labels, embedding=embedding, groups=groups, method=method, head=head, random_state=random_state
    )
    return cells, replace(annotator, colors=tuple(label_colors(reference, labels_key, list(annotator.classes))))
