"""`cf.tl.screen_perturbations`: all perturbations of some genes in silico, grouped by their effects."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfm.cells.outputs import record_run
from cellfm.errors import InputError
from cellfm.io.arguments import checked
from cellfm.io.logging import logger
from cellfm.io.messages import counted
from cellfm.keys import PERTURBATION
from cellfm.tasks._fitted import resolve_fitted
from cellfm.tasks.genes import leiden_modules, neighbour_graph, umap_of
from cellfm.tasks.perturbation._conditions import name_of
from cellfm.tasks.perturbation._predictor import PerturbationPredictor
from cellfm.tasks.perturbation._reverse import MIN_SHARE, all_conditions, dominant_genes
from cellfm.tasks.perturbation._target import MIN_GENES


@checked
def screen_perturbations(
    predictor: PerturbationPredictor | str | Path,
    genes: Sequence[str],
    *,
    kind: Literal["pairs", "singles", "both"] = "pairs",
    method: str | None = None,
    min_share: float = MIN_SHARE,
    resolution: float = 1.0,
    n_neighbors: int = 15,
    umap: bool = True,
    random_state: int = 0,
) -> AnnData:
    """Predict all single or double perturbations of some genes, and group those with similar effects.

    Groups are Leiden clusters on the cosine neighbours of the predicted changes. The perturbed genes themselves are
    left out of this comparison, but X and the layer contain all genes (Zeng 2025, "in-silico screen").

    Parameters
    ----------
    predictor
        The result of `cf.tl.fit_perturbation`, or the folder in which it was saved.
    genes
        Genes to perturb.
    kind
        Pairs, singles, or both.
    method
        The predictor to use: ``"network"``, ``"gene effects"``, ``"additive"``, ``"bilinear, CellFM genes"`` or
        another of `predictor.methods`; by default `predictor.chosen`, the best on the validation conditions.
    min_share
        Minimum share of a cluster's perturbations that include a gene for it to be the dominant gene.
    resolution
        Resolution of Leiden; larger values give more clusters.
    n_neighbors
        Number of neighbours of each perturbation.
    umap
        Compute the UMAP.
    random_state
        Seed of Leiden and UMAP.

    Returns
    -------
    AnnData, n_perturbations x n_genes. X is the predicted log1p of counts per 10,000. It has:

    `obs["cellfm_perturbation"]`
        categorical: the perturbation.
    `obs["cellfm_part"]`
        categorical: ``train``, ``validation``, ``test`` or ``new``, by whether the predictor has seen the perturbation.
    `obs["cellfm_cluster"]`
        categorical: its cluster; ``"0"`` is the largest.
    `obs["cellfm_dominant_gene"]`
        categorical: the gene that most perturbations of the cluster share, if at least `min_share` do; NaN for
        clusters without such a gene.
    `layers["cellfm_change"]`
        float32: predicted change against control.
    `obsm["X_umap"]`
        float32, (n_perturbations, 2), with `umap`.
    `uns["cellfm"]["perturbation"]`
        dict: model, hashes, the method, seed, version, and ``clusters``, a DataFrame with ``cluster``, its size ``n``,
        the dominant ``gene`` (empty where there is none), and the ``share`` of its most frequent gene.

    Raises
    ------
    InputError
        More than a million perturbations (the message gives their number and an estimate of the time), fewer than
        three, a gene or method that the predictor does not know, identical predictions for all, or too few genes apart
        from the perturbed ones.

    Examples
    --------
    >>> screen = cf.tl.screen_perturbations(predictor, ["CD3D", "CD3E", "LYZ", "CST3"], umap=False)
    >>> screen.n_obs
    6
    """
    if kind not in ("pairs", "singles", "both"):
        raise InputError(f"kind must be 'pairs', 'singles' or 'both', not {kind!r}.")
    predictor = resolve_fitted(predictor, PerturbationPredictor, "cf.tl.fit_perturbation")
    predictor.check_genes(set(genes))
    method = predictor.method(method)
    predict = partial(predictor.changes, method=method)
    conditions = all_conditions(genes, predict, pairs=kind != "singles", singles=kind != "pairs")
    if len(conditions) < 3:
        genes_give = counted(len(set(genes)), "gene gives", "genes give")
        raise InputError(f"{genes_give} {counted(len(conditions), 'perturbation')}; a screen needs at least three.")
    others = predictor.others_than(set(genes))
    if others.sum() < MIN_GENES:
        genes_are = counted(int(others.sum()), "measured gene is", "measured genes are")
        raise InputError(f"{genes_are} not perturbed; {MIN_GENES} are needed.")
    changes = predict(conditions)
    if not np.ptp(changes[:, others], axis=0).any():
        raise InputError(
            f"{method!r} predicts the same change for all {len(conditions):,} perturbations, so that there are no "
            f"groups. Pass another method: {', '.join(map(repr, predictor.methods))}."
        )
    graph = neighbour_graph(changes[:, others], n_neighbors, random_state)
    clusters = leiden_modules(graph, [resolution], min_genes=1, random_state=random_state)[:, 0]
    table = dominant_genes(clusters, conditions, min_share=min_share)
    obs = pd.DataFrame(
        {
            PERTURBATION.condition: pd.Categorical([name_of(condition) for condition in conditions]),
            PERTURBATION.part: pd.Categorical([predictor.split.part_of(c) or "new" for c in conditions]),
            PERTURBATION.cluster: pd.Categorical(clusters.astype(str), table["cluster"]),
            PERTURBATION.dominant: pd.Categorical(table["gene"].replace("", None).to_numpy()[clusters]),
        },
        index=[name_of(condition) for condition in conditions],
    )
    adata = AnnData(predictor.profiles.control + changes, obs=obs, var=pd.DataFrame(index=list(predictor.genes)))
    adata.layers[PERTURBATION.change] = changes
    if umap:
        adata.obsm["X_umap"] = umap_of(graph, random_state)
    record_run(
        adata,
        PERTURBATION.uns,
        **predictor.facts(),
        method=method,
        random_state=random_state,
        resolution=resolution,
        clusters=table,
    )
    logger.info("%d perturbations fall into %d clusters.", len(conditions), len(table))
    return adata
