"""`cf.tl.benchmark`: how well embeddings mix batches and preserve cell types, compared with principal components."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.counts import require_counts
from cellfm.cells.matrix import Matrix, read_matrix
from cellfm.cells.obs import read_complete_column
from cellfm.cells.select import select
from cellfm.errors import InputError, MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.logging import logger
from cellfm.keys import EMBED, INTEGRATION
from cellfm.tasks.annotation._features import log_normalised
from cellfm.tasks.annotation._labels import require_classes
from cellfm.tasks.integration._batches import choose_cells, require_batches
from cellfm.tasks.integration._scores import Cells, harmony, principal_components, score_embeddings

PCA, HARMONY = "X_pca", "Harmony"
MAX_CELLS = 5000


@shared_docs
@checked
def benchmark(
    data: AnnData | MuData,
    *,
    batch_key: str,
    label_key: str,
    embeddings: Sequence[str] | None = None,
    layer: str | None = None,
    modality: str = "rna",
    profile: Literal["fast", "full"] = "fast",
    max_cells: int | None = MAX_CELLS,
    random_state: int = 0,
) -> pd.DataFrame:
    """Score embeddings with scib-metrics (Luecken 2022), always together with principal components.

    `X_pca` is the baseline that every integration has to beat, and the reference of the PCR metric. It is
    `obsm["X_pca"]` if this exists (computed before integration), otherwise 50 components of the 2,000 most variable
    genes of the log-normalised counts. If harmonypy is installed, Harmony on these components is an additional row.

    NMI and ARI are those of the best of ten Leiden clusterings, with exact nearest neighbours. The first run on data of
    a new size takes longer, because the metrics are compiled for it.

    Parameters
    ----------
    data
        Cells with embeddings in `obsm`.
    batch_key
        Column of `obs` with the batches.
    label_key
        Column of `obs` with the cell types.
    embeddings
        Names in `obsm`; by default those of ``X_cellfm`` and ``X_cellfm_integrated`` that exist.
    layer
        Layer with counts, or values that are log-normalised already, for the components; by default X.
    {modality}
    profile
        ``"full"`` computes all metrics, ``"fast"`` leaves out kBET and the isolated labels. The aggregates of the two
        profiles are not comparable.
    max_cells
        Maximum number of cells. Larger data are sampled, with the same share of each batch and label. None uses all
        cells.
    random_state
        Seed of the sample and of the components.

    Returns
    -------
    DataFrame, a row for `X_pca`, each embedding and Harmony, in this order. Columns: the metrics (at most 1, higher is
    better), ``AvgBio`` (mean of NMI, ARI and label silhouette), ``Bio conservation`` and ``Batch correction`` (means of
    their metrics), and ``Total`` (0.6 of the one and 0.4 of the other). `attrs` holds the profile and the number of
    cells. Nothing is written.

    Raises
    ------
    InputError
        An embedding is not finite or not two-dimensional; batches or labels are missing, or there is only one of them;
        there is no embedding; or components are needed and there are no counts.
    MissingKeyError
        There is no such column, embedding, layer or modality; the message lists the available ones.

    Examples
    --------
    >>> cf.tl.embed(adata)
    >>> scores = cf.tl.benchmark(adata, batch_key="donor", label_key="cell_type")
    >>> scores["Total"]
    """
    if profile not in ("fast", "full"):
        raise InputError(f"profile must be 'fast' or 'full', not {profile!r}.")
    adata = select(data, modality)
    batches = read_complete_column(adata, batch_key, "batch_key")
    labels = read_complete_column(adata, label_key, "label_key")
    require_batches(batches, batch_key)
    require_classes(labels, label_key)
    found = _embeddings(adata, embeddings)
    counts = None if PCA in adata.obsm else _counts(adata, layer)

    most = adata.n_obs if max_cells is None else max_cells
    chosen = choose_cells(_pairs(batches, labels), most, random_state=random_state)
    if len(chosen) < adata.n_obs:
        logger.info("scoring %d of %d cells.", len(chosen), adata.n_obs)
    found = {name: embedding[chosen] for name, embedding in found.items()}
    if counts is None:
        components = np.asarray(adata.obsm[PCA], np.float32)[chosen]
    else:
        components = principal_components(log_normalised(counts)[chosen], random_state=random_state)
    cells = Cells(batches[chosen], labels[chosen])
    corrected = harmony(components, cells.batches, random_state=random_state)
    rows = {PCA: components} | found | ({} if corrected is None else {HARMONY: corrected})
    table = score_embeddings(rows, cells, components, profile=profile)
    table.attrs = {"profile": profile, "n_cells": len(chosen), "batch_key": batch_key, "label_key": label_key}
    return table


def _embeddings(adata: AnnData, names: Sequence[str] | None) -> dict[str, np.ndarray]:
    there = ", ".join(map(str, adata.obsm)) or "nothing"
    if names is None:
        names = [name for name in (EMBED.obsm, INTEGRATION.obsm) if name in adata.obsm]
        if not names:
            raise MissingKeyError(
                f"No obsm[{EMBED.obsm!r}] or obsm[{INTEGRATION.obsm!r}]; available: {there}. Call cf.tl.embed or "
                "cf.tl.integrate first, or pass embeddings=."
            )
    found = {}
    for name in names:
        if name not in adata.obsm:
            raise MissingKeyError(f"No obsm[{name!r}]; available: {there}.")
        embedding = np.asarray(adata.obsm[name])
        if embedding.ndim != 2 or not np.issubdtype(embedding.dtype, np.number):
            raise InputError(f"obsm[{name!r}] must be a table of numbers, cells x dimensions.")
        if name != PCA:
            found[name] = embedding
    return found


def _counts(adata: AnnData, layer: str | None) -> Matrix:
    counts = read_matrix(adata, layer)
    return counts if counts.describe().kind == "log-normalised" else require_counts(counts, adata)


def _pairs(batches: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A number for each combination of batch and label, (n_cells,)."""
    of_batch, of_label = (np.unique(values, return_inverse=True)[1] for values in (batches, labels))
    return of_batch * (of_label.max() + 1) + of_label
