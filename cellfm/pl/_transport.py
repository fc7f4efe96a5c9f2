"""`cf.pl.transport`: cells before and after a transport map, and observed cells."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from mudata import MuData

from cellfm.cells.select import select
from cellfm.errors import InputError, MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.messages import counted
from cellfm.keys import TRANSPORT
from cellfm.pl._figure import finish, point_area

COLORS = {"before": "0.6", "predicted": "C1", "observed": "C0"}
BINS = 40
COLUMNS = 4


@shared_docs
@checked
def transport(
    data: AnnData | MuData,
    *,
    kind: Literal["umap", "density"] = "umap",
    genes: Sequence[str] | None = None,
    n_genes: int = 8,
    modality: str = "rna",
    show: bool | None = None,
    save: str | Path | None = None,
) -> list[Axes]:
    """Draw cells before and after a transport map beside observed cells, as a UMAP or as the expression of genes.

    Parameters
    ----------
    data
        The result of `cf.tl.compare_transport`.
    kind
        ``"umap"``: a panel for each state, the others in grey (needs ``umap=True`` there). ``"density"``: a histogram
        of the expression of each gene.
    genes
        Genes of ``"density"``; by default those whose mean changes most between before and observed.
    n_genes
        Number of these genes.
    {modality}
    {show}
    {save}

    Returns
    -------
    The axes. Reads `obs["cellfm_state"]` and `obsm["X_cellfm_transport_umap"]` or X.

    Raises
    ------
    MissingKeyError
        There are no states, no UMAP, or no such genes.
    InputError
        The `kind` is unknown.

    Examples
    --------
    >>> control, treated = (adata[adata.obs["condition"] == name] for name in ("ctrl", "stim"))
    >>> compared = cf.tl.compare_transport(fitted, control, observed=treated, umap=True)
    >>> axes = cf.pl.transport(compared)
    """
    if kind not in ("umap", "density"):
        raise InputError(f"kind must be 'umap' or 'density', not {kind!r}.")
    adata = select(data, modality)
    if TRANSPORT.state not in adata.obs:
        raise MissingKeyError(f"No column {TRANSPORT.state!r} in obs; expected what cf.tl.compare_transport returns.")
    states = {name: (adata.obs[TRANSPORT.state] == name).to_numpy() for name in COLORS}
    axes = _umaps(adata, states) if kind == "umap" else _densities(adata, states, genes, n_genes)
    finish(axes[0], show=show, save=save)
    return axes


def _umaps(adata: AnnData, states: dict[str, np.ndarray]) -> list[Axes]:
    if TRANSPORT.umap not in adata.obsm:
        raise MissingKeyError(f"No obsm[{TRANSPORT.umap!r}]: call cf.tl.compare_transport with umap=True.")
    points = np.asarray(adata.obsm[TRANSPORT.umap])
    size = (3.5 * len(states), 3.5)
    _, axes = plt.subplots(1, len(states), figsize=size, sharex=True, sharey=True, layout="constrained")
    area = point_area(3 * len(points), most=30)  # panels are small
    for ax, (name, own) in zip(axes, states.items(), strict=True):
        color = "black" if name == "before" else COLORS[name]
        ax.scatter(*points[~own].T, s=area, color="0.88", linewidths=0)
        ax.scatter(*points[own].T, s=area, color=color, linewidths=0)
        ax.set(xticks=[], yticks=[], title=f"{name} ({counted(own.sum(), 'cell')})")
        ax.set_frame_on(False)
    return list(axes)


def _densities(adata: AnnData, states: dict[str, np.ndarray], genes: Sequence[str] | None, n_genes: int) -> list[Axes]:
    if genes is None:
        means = {name: np.asarray(adata.X[own].mean(0)).ravel() for name, own in states.items()}
        change = np.abs(means["observed"] - means["before"])
        genes = list(adata.var_names[np.argsort(-change, kind="stable")[:n_genes]])
    if missing := [gene for gene in genes if gene not in adata.var_names]:
        raise MissingKeyError(f"No genes {', '.join(missing[:20])} among the {adata.n_vars:,} that are predicted.")
    n_columns = min(COLUMNS, len(genes))
    n_rows = -(-len(genes) // n_columns)
    figure, grid = plt.subplots(
        n_rows, n_columns, figsize=(2.8 * n_columns, 2.2 * n_rows + 0.4), squeeze=False, layout="constrained"
    )
    for ax, gene in zip(grid.ravel(), genes, strict=False):
        values = np.asarray(adata[:, gene].X.toarray() if hasattr(adata.X, "toarray") else adata[:, gene].X).ravel()
        _histogram(ax, {name: values[own] for name, own in states.items()})
        ax.set_title(gene, fontsize=10)
    for ax in grid.ravel()[len(genes) :]:
        ax.remove()
    _legend(figure, grid[0, 0])
    return list(grid.ravel()[: len(genes)])


def _histogram(ax: Axes, values: dict[str, np.ndarray]) -> None:
    """Histograms of expression in shared bins; those of each state add up to 1."""
    edges = np.linspace(0, max(float(own.max(initial=0.1)) for own in values.values()), BINS + 1)
    for name, own in values.items():
        weights = np.full(len(own), 1 / max(len(own), 1))
        filled = name == "before"
        ax.hist(
            own,
            bins=list(edges),
            weights=weights,
            histtype="stepfilled" if filled else "step",
            color=COLORS[name],
            alpha=0.5 if filled else 1.0,
            linewidth=0 if filled else 1.3,
            label=name,
        )
    ax.set(yticks=[], ylabel="share of cells", xlabel="log expression")
    ax.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure | SubFigure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
