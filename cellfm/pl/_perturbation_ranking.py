"""`cf.pl.perturbation_ranking`: the perturbations that may lead to a state, measured and predicted."""

from pathlib import Path
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cellfm.errors import InputError, MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.pl._figure import finish, fit_tick_labels

COLORS = {"measured": "C0", "predicted": "C1"}


@shared_docs
@checked
def perturbation_ranking(
    ranking: pd.DataFrame,
    *,
    by: Literal["cosine", "euclidean"] = "cosine",
    n_top: int = 20,
    highlight: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the best candidates of a reverse search with their scores, the best on top.

    Parameters
    ----------
    ranking
        The result of `cf.tl.rank_perturbations`; its order is kept.
    by
        The score to draw.
    n_top
        Number of candidates to draw.
    highlight
        A perturbation to write in bold, such as the true one.
    {ax}
    {show}
    {save}

    Returns
    -------
    The axes. Measured and predicted candidates have different colours.

    Raises
    ------
    MissingKeyError
        The table is not a ranking.
    InputError
        The score is unknown, or there is no candidate to draw.

    Examples
    --------
    >>> cells = perturbed[perturbed.obs["condition"] == "CD3D+LYZ"]
    >>> ranking = cf.tl.rank_perturbations(predictor, cells)
    >>> ax = cf.pl.perturbation_ranking(ranking, highlight="CD3D+LYZ")
    """
    if by not in ("cosine", "euclidean"):
        raise InputError(f"by must be 'cosine' or 'euclidean', not {by!r}.")
    if missing := [name for name in ("perturbation", by, "source") if name not in ranking]:
        there = ", ".join(map(str, ranking.columns)) or "none"
        raise MissingKeyError(
            f"No column {missing[0]!r}; expected what cf.tl.rank_perturbations returns, found {there}."
        )
    top = ranking.head(n_top)
    if not len(top):
        raise InputError("The ranking has no candidate to draw.")
    if ax is None:
        ax = plt.subplots(figsize=(6, 1 + 0.25 * len(top)), layout="constrained")[1]
    places = np.arange(len(top))
    for source, color in COLORS.items():
        own = (top["source"] == source).to_numpy()
        if own.any():
            ax.hlines(places[own], 0, top[by][own], color=color, linewidth=1)
            ax.scatter(top[by][own], places[own], s=25, color=color, label=source, zorder=3)
    ax.set(yticks=places, ylim=(len(top) - 0.4, -0.6), xlabel=f"{by} of the changes" if by == "cosine" else "distance")
    ax.set_yticklabels(top["perturbation"])
    for label in ax.get_yticklabels():
        if label.get_text() == highlight:
            label.set_fontweight("bold")
    ax.axvline(0, color="black", linewidth=0.6)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    fit_tick_labels(ax.yaxis)
    finish(ax, show=show, save=save)
    return ax
