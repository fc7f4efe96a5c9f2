"""`cf.pl.perturbation_screen`: the map of screened perturbations, coloured by cluster, with the dominant genes."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from mudata import MuData
from scanpy.plotting.palettes import default_20

from cellfm.cells.outputs import run_record
from cellfm.cells.select import select
from cellfm.errors import MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.keys import PERTURBATION
from cellfm.pl._figure import finish, name_points, point_area


@shared_docs
@checked
def perturbation_screen(
    data: AnnData | MuData,
    *,
    n_clusters: int = 20,
    modality: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the perturbations of a screen as a UMAP: clusters, and the gene that dominates each.

    Parameters
    ----------
    data
        The result of ``cf.tl.screen_perturbations(..., umap=True)``.
    n_clusters
        Number of clusters that get a colour and a name, the largest first; the others are grey.
    {modality}
    {ax}
    {show}
    {save}

    Returns
    -------
    The axes. The legend gives the number of each cluster, its dominant gene, and the share of its perturbations that
    include this gene, or "none" and the number of perturbations if no gene dominates. On the map, clusters are labelled
    with the gene, or with their number, if there is space. Reads ``obsm["X_umap"]``, ``obs["cellfm_cluster"]`` and
    ``uns["cellfm"]["perturbation"]["clusters"]``.

    Raises
    ------
    MissingKeyError
        There are no clusters, or they have no UMAP.

    Examples
    --------
    >>> screen = cf.tl.screen_perturbations(predictor, ["CD3D", "CD3E", "LYZ", "CST3"], kind="both")
    >>> ax = cf.pl.perturbation_screen(screen)
    """
    adata = select(data, modality)
    facts = run_record(adata, PERTURBATION.uns, "uns")
    if PERTURBATION.cluster not in adata.obs or "X_umap" not in adata.obsm or "clusters" not in facts:
        raise MissingKeyError("No map of a screen: call cf.tl.screen_perturbations(..., umap=True) first.")
    points = np.asarray(adata.obsm["X_umap"])
    clusters = adata.obs[PERTURBATION.cluster].astype(str).to_numpy()
    size = point_area(len(points))
    if ax is None:
        ax = plt.subplots(figsize=(7, 4.5), layout="constrained")[1]
    named = facts["clusters"].head(n_clusters)
    grey = ~np.isin(clusters, named["cluster"].astype(str))
    ax.scatter(points[grey, 0], points[grey, 1], s=size, color="lightgrey", linewidths=0, rasterized=True)
    centres: list[np.ndarray] = []
    for i, row in enumerate(named.itertuples()):
        own = points[clusters == str(row.cluster)]
        share = f"{row.gene} ({row.share:.0%} of {row.n:,})" if row.gene else f"none ({row.n:,})"
        label = f"{row.cluster}: {share}"
        ax.scatter(own[:, 0], own[:, 1], s=size, color=default_20[i % 20], linewidths=0, label=label, rasterized=True)
        centres.append(np.median(own, axis=0))
    ax.set(xticks=[], yticks=[], xlabel="UMAP1", ylabel="UMAP2", title=f"{adata.n_obs:,} perturbations")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small", title="dominant gene")
    outline = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}
    names = [row.gene or str(row.cluster) for row in named.itertuples()]
    name_points(ax, np.array(centres), names, on_point=True, fontsize=8, bbox=outline)
    finish(ax, show=show, save=save)
    return ax
