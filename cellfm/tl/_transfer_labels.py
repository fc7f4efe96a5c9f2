"""`cf.tl.transfer_labels`: labels of the nearest reference cells; nothing is trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from mudata import MuData

from cellfm.cells.input_options import InputOptions
from cellfm.cells.outputs import writing
from cellfm.cells.select import select
from cellfm.genes.match import MIN_KNOWN_GENES
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.io.messages import counted, of_reference, warn
from cellfm.keys import ANNOTATION, UNKNOWN
from cellfm.model import CellFM, resolve_model
from cellfm.model._embed import stored_or_new_embedding
from cellfm.tasks.annotation._labelling import Labelling
from cellfm.tasks.annotation._labels import label_colors, read_labels, require_classes
from cellfm.tasks.annotation._neighbors import N_NEIGHBORS, fit_neighbor_vote
from cellfm.tasks.annotation._panel import read_query_and_reference


@shared_docs
@checked
def transfer_labels(
    data: AnnData | MuData,
    reference: AnnData | MuData,
    *,
    labels_key: str,
    model: str | Path | CellFM = "mini",
    layer: str | None = None,
    reference_layer: str | None = None,
    values_layer: str | None = None,
    modality: str = "rna",
    gene_key: str | None = None,
    reference_gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    shared_genes: bool = True,
    n_neighbors: int = N_NEIGHBORS,
    confidence_threshold: float | None = None,
    distance_threshold: float | None = None,
    batch_size: int | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Predict the cell type of each cell from the nearest reference cells in the embedding.

    The `n_neighbors` nearest reference cells by cosine vote, weighted by their cosine; the share of the votes is the
    confidence. Nothing is trained, so this is a quick first look and a baseline; `cf.tl.annotate` fits a classifier to
    the reference. Cells become ``"Unknown"`` if their confidence is too low or if they are too far from all reference
    cells.

    Query and reference are embedded with the genes that both share, because a different gene panel alone moves cells in
    the embedding.

    Parameters
    ----------
    data
        The cells to label: counts, as for `cf.tl.embed`.
    reference
        Labelled cells: counts; their genes may differ from those of `data`.
    labels_key
        Column of `reference.obs` with the labels. Reference cells without label are left out.
    {model}
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
        Embed both with their shared genes only; otherwise each with all of its genes.
    n_neighbors
        Reference cells that vote.
    confidence_threshold
        Cells with a lower confidence become ``"Unknown"``; 0 to 1, where 0 rejects none. By default chosen so that 2.5
        % of the reference cells would be rejected, each labelled by the others.
    distance_threshold
        Cells with a larger distance become ``"Unknown"``; `numpy.inf` rejects none. By default chosen so that 2.5 % of
        the reference cells would be rejected, and raised for each label whose cells are displaced from the reference;
        see `cf.tl.annotate`.
    {batch_size}
    min_known_genes
        Minimum number of genes that the model must know, and that both tables must share.
    {sample_seed}
    {copy}

    Returns
    -------
    None, or the copy. Sets:

    `obs["cellfm_label"]`
        categorical: the label, ``"Unknown"`` where the cell is rejected.
    `obs["cellfm_label_raw"]`
        categorical: the label before rejection; missing for cells that express no known gene.
    `obs["cellfm_confidence"]`
        float32: share of the votes, 0 to 1; NaN for cells that express no known gene.
    `obs["cellfm_distance"]`
        float32: Mahalanobis distance to the nearest class of the reference, divided by the median distance of that
        class's own cells; NaN for cells that express no known gene.
    `obsm["cellfm_proba"]`
        float32, (n_obs, n_classes): share of the votes of each class, NaN for cells that express no known gene.
    `uns["cellfm_label_colors"]`, `uns["cellfm_label_raw_colors"]`
        list of str: the colours of the labels, taken from the reference if it has any; ``"Unknown"`` is grey.
    `uns["cellfm"]["cellfm_proba"]`
        dict: the names of the classes (``"classes"``), the thresholds (``"confidence_threshold"``,
        ``"distance_threshold"``, and ``"distance_thresholds"``: the threshold of each class as applied to this query),
        model, hashes, genes matched, seed, version.

    Warns
    -----
    DataWarning
        More than half of the cells of a label are rejected; the message gives the numbers by label. Some cells express
        none of the genes that are used.

    Raises
    ------
    InputError
        No counts in one of the tables, too few shared genes, labels with one class or with a class of one cell.
    MissingKeyError
        There is no such layer, modality or column; the message lists the available ones.

    Examples
    --------
    >>> cf.tl.transfer_labels(query, reference, labels_key="cell_type")
    >>> query.obs["cellfm_label"].value_counts()
    """
    adata, known = select(data, modality, copy=copy), select(reference, modality)
    with of_reference():
        labels = read_labels(known, labels_key)
    loaded = resolve_model(model)
    options = InputOptions(
        layer=layer, values_layer=values_layer, gene_key=gene_key, hgnc=hgnc, min_known_genes=min_known_genes
    )
    of_source = replace(options, layer=reference_layer, gene_key=reference_gene_key)
    both = (options, of_source)
    cells, source = read_query_and_reference(adata, known, loaded.vocab, both, shared=shared_genes)
    how: dict[str, Any] = {"batch_size": batch_size, "random_state": random_state}
    with of_reference():
        seen = stored_or_new_embedding(known, loaded, source, **how)
    there = np.isfinite(seen[:, 0])
    labelled = np.array([label is not None for label in labels])
    if n_lost := int((labelled & ~there).sum()):
        said = counted(n_lost, "labelled reference cell expresses", "labelled reference cells express")
        warn(f"{said} no gene that is used; these cells are left out.")
    voters = labelled & there
    names = labels[voters].astype(str)
    require_classes(names, labels_key)
    vote = fit_neighbor_vote(seen[voters], names, n_neighbors)
    found = vote.predict(stored_or_new_embedding(adata, loaded, cells, **how))
    thresholds = (
        vote.confidence_threshold if confidence_threshold is None else confidence_threshold,
        vote.distance_threshold if distance_threshold is None else distance_threshold,
    )
    labelling = Labelling.of(found, vote.classes, thresholds, inflate=distance_threshold is None)
    with writing(data, modality=modality, copy=copy) as out:
        out.write(labelling.results(labelling.labels, label_colors(known, labels_key, list(vote.classes))))
        out.record(
            ANNOTATION.proba,
            "obsm",
            **labelling.facts(),
            method="nearest neighbors",
            labels_key=labels_key,
            n_reference_cells=int(voters.sum()),
            n_neighbors=vote.n_neighbors,
            **cells.facts(loaded, random_state),
        )
    logger.info("labelled %d cells, %d of them %s.", adata.n_obs, labelling.rejection.rejected.sum(), UNKNOWN)
    return out.returned
