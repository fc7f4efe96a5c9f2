"""`cf.pl.perturbation`: predicted against observed change of the genes that a perturbation changes most."""

from pathlib import Path
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from mudata import MuData

from cellfm.cells.select import select
from cellfm.errors import InputError, MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.keys import PERTURBATION
from cellfm.pl._figure import finish, fit_tick_labels, name_points, point_area

COLORS = {"control": "grey", "observed": "C0", "predicted": "C1"}


@shared_docs
@checked
def perturbation(
    data: AnnData | MuData,
    perturbation: str,
    *,
    kind: Literal["bars", "levels", "scatter"] = "bars",
    n_genes: int = 20,
    modality: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the predicted change of a perturbation beside the observed change.

    Parameters
    ----------
    data
        The result of `cf.tl.perturb`.
    perturbation
        One of its rows.
    kind
        Bars of the most changed genes (``"levels"``: their expression in control, observed and predicted, instead of
        the change), or all genes as a scatter plot in which the most changed genes are named if there is space.
    n_genes
        Number of genes to name: those with the largest observed change, or predicted change if none was observed.
    {modality}
    {ax}
    {show}
    {save}

    Returns
    -------
    The axes. Reads X, `layers["cellfm_change"]` and `layers["cellfm_observed_change"]`.

    Raises
    ------
    MissingKeyError
        There is no such row, or there are no predicted changes.
    InputError
        A scatter plot of a perturbation that was not observed.

    Examples
    --------
    >>> predicted = cf.tl.perturb(predictor, ["CD3D+LYZ"])
    >>> ax = cf.pl.perturbation(predicted, "CD3D+LYZ")
    """
    if kind not in ("bars", "levels", "scatter"):
        raise InputError(f"kind must be 'bars', 'levels' or 'scatter', not {kind!r}.")
    adata = select(data, modality)
    if PERTURBATION.change not in adata.layers:
        raise MissingKeyError(f"No layer {PERTURBATION.change!r}; expected what cf.tl.perturb returns.")
    if perturbation not in adata.obs_names:
        raise MissingKeyError(f"No row {perturbation!r}; available: {', '.join(adata.obs_names[:20])}.")
    row = adata.obs_names.get_loc(perturbation)
    predicted = np.asarray(adata.layers[PERTURBATION.change][row])
    observed = np.full_like(predicted, np.nan)
    if PERTURBATION.observed in adata.layers:
        observed = np.asarray(adata.layers[PERTURBATION.observed][row])
    was_observed = bool(np.isfinite(observed).all())
    if kind == "scatter" and not was_observed:
        raise InputError(f"{perturbation!r} was not observed, so there is nothing to compare the prediction with.")
    top = np.argsort(-np.abs(observed if was_observed else predicted), kind="stable")[:n_genes]
    if ax is None:
        size = (4.5, 4.5) if kind == "scatter" else (2 + 0.3 * len(top), 3.5)
        ax = plt.subplots(figsize=size, layout="constrained")[1]
    names = adata.var_names[top]
    if kind != "scatter":
        sides = {"observed": observed, "predicted": predicted} if was_observed else {"predicted": predicted}
        if kind == "levels":
            control = np.asarray(adata[perturbation].X).ravel() - predicted
            sides = {"control": control} | {side: control + change for side, change in sides.items()}
        width = 0.8 / len(sides)
        for i, (label, heights) in enumerate(sides.items()):
            place = np.arange(len(top)) + (i - (len(sides) - 1) / 2) * width
            ax.bar(place, heights[top], width, label=label, color=COLORS[label])
        expression = "log-normalised expression"
        ax.set(xticks=range(len(top)), ylabel=expression if kind == "levels" else f"change of {expression}")
        ax.set_xticklabels(names, rotation=90)
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    else:
        area = point_area(len(observed), most=20)
        ax.scatter(observed, predicted, s=area, color="lightgrey", linewidths=0, rasterized=True)
        ax.scatter(observed[top], predicted[top], s=max(area, 12), color="C1", linewidths=0)
        ends = [min(observed.min(), predicted.min()), max(observed.max(), predicted.max())]
        ax.plot(ends, ends, color="black", linewidth=0.6, linestyle="--")
        ax.set(xlabel="observed change", ylabel="predicted change")
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_title(perturbation)
    ax.spines[["top", "right"]].set_visible(False)
    if kind == "scatter":
        name_points(ax, np.column_stack([observed, predicted])[top], names, fontsize=7)
    else:
        fit_tick_labels(ax.xaxis)
    finish(ax, show=show, save=save)
    return ax
