"""`cf.pl.gene_function`: how well features predict the function of genes, beside controls."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cellfm.errors import MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.pl._figure import finish, write_message


@shared_docs
@checked
def gene_function(
    scores: pd.DataFrame,
    *,
    metric: str = "auroc",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the scores of `cf.tl.gene_function`, with a dot for each fold and a bar for the mean.

    Parameters
    ----------
    scores
        The result of `cf.tl.gene_function`.
    metric
        Column to draw.
    {ax}
    {show}
    {save}

    Returns
    -------
    The axes. If no fold has a score, they contain only a message.

    Raises
    ------
    MissingKeyError
        There is no such metric; the message lists the available ones.

    Examples
    --------
    >>> scores = cf.tl.gene_function("mini", labels, n_folds=3, n_repeats=1)
    >>> ax = cf.pl.gene_function(scores, metric="auprc")
    """
    metrics = [column for column in map(str, scores) if column not in ("features", "classifier", "repeat", "fold")]
    if metric not in metrics:
        raise MissingKeyError(f"No metric {metric!r}; available: {', '.join(metrics)}.")
    names = list(dict.fromkeys(scores["features"]))
    classifiers = list(dict.fromkeys(scores["classifier"]))
    if ax is None:
        ax = plt.subplots(figsize=(1.5 + 1.2 * len(names), 4), layout="constrained")[1]
    if scores[metric].isna().all():
        write_message(ax, f"No fold has a score ({metric}).")
        finish(ax, show=show, save=save)
        return ax
    width = 0.8 / len(classifiers)
    generator = np.random.default_rng(0)  # scatters the dots sideways
    for i, classifier in enumerate(classifiers):
        for j, name in enumerate(names):
            values = scores.loc[(scores["features"] == name) & (scores["classifier"] == classifier), metric]
            x = j + (i - (len(classifiers) - 1) / 2) * width
            label = classifier if j == 0 else None
            ax.bar(x, values.mean(), 0.9 * width, color=f"C{i}", alpha=0.4, label=label)
            jitter = generator.uniform(-0.3, 0.3, len(values)) * width
            ax.scatter(x + jitter, values, s=6, color=f"C{i}", linewidths=0, zorder=2)
    if metric == "auroc":
        ax.axhline(0.5, color="grey", linewidth=0.8, linestyle="--")
    ax.set(xticks=range(len(names)), ylabel=metric, ylim=(0, 1))
    ax.set_xticklabels(names)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 1.12), ncols=len(classifiers))
    finish(ax, show=show, save=save)
    return ax
