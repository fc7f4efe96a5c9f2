"""`cf.pl.benchmark`: the table of `cf.tl.benchmark` as a figure."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Rectangle

from cellfm.errors import InputError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.pl._figure import finish

_AGGREGATES = ("AvgBio", "Bio conservation", "Batch correction", "Total")
_BATCH_METRICS = ("Silhouette batch", "BRAS", "iLISI", "KBET", "Graph connectivity", "PCR comparison")
_OF_BIO, _OF_BATCH, _OF_ALL = "#7fbf9b", "#7fa8d1", "#9d94c9"


@shared_docs
@checked
def benchmark(
    scores: pd.DataFrame,
    *,
    sort_by: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the scores of embeddings, with metrics as discs, aggregates as bars, and the best of each column in bold.

    The area of a disc and the length of a bar show the score itself, from 0 to 1. Columns are not rescaled, so that
    small differences look small.

    Parameters
    ----------
    scores
        The result of `cf.tl.benchmark`.
    sort_by
        Column by which to sort the rows, highest first; by default rows are not sorted.
    {ax}
    {show}
    {save}

    Returns
    -------
    The axes.

    Raises
    ------
    InputError
        Something else was passed, or there is no such column.

    Examples
    --------
    >>> # scores is what cf.tl.benchmark returned
    >>> ax = cf.pl.benchmark(scores, sort_by="Total")
    """
    if not isinstance(scores, pd.DataFrame) or not len(scores) or not set(_AGGREGATES) <= set(scores.columns):
        raise InputError("Expected the table that cf.tl.benchmark returns.")
    if sort_by is not None:
        if sort_by not in scores:
            raise InputError(f"No column {sort_by!r}; available: {', '.join(map(str, scores.columns))}.")
        scores = scores.sort_values(sort_by, ascending=False)
    single = [name for name in map(str, scores) if name not in _AGGREGATES]
    bio, batch = ([name for name in single if (name in _BATCH_METRICS) == of_batch] for of_batch in (False, True))
    columns = [*bio, *batch, *_AGGREGATES]
    if ax is None:
        size = (2.2 + 0.95 * len(columns), 1.6 + 0.55 * len(scores))
        _, ax = plt.subplots(figsize=size, layout="constrained")
    for x, name in enumerate(columns):
        best = scores[name].max()
        for y, score in enumerate(scores[name]):
            is_best = bool(len(scores) > 1 and np.isclose(score, best, atol=5e-4, rtol=0))
            if name in _AGGREGATES:
                ax.add_patch(Rectangle((x - 0.45, y - 0.3), 0.9 * min(max(score, 0), 1), 0.6, color=_color(name)))
            else:
                ax.add_patch(Circle((x, y), 0.45 * max(score, 0) ** 0.5, color=_color(name)))
            ax.text(x, y, f"{score:.2f}", ha="center", va="center", size=8, weight="bold" if is_best else "normal")
    ax.set(xlim=(-0.6, len(columns) - 0.4), ylim=(len(scores) - 0.4, -0.6), aspect="equal")
    ax.axvline(len(single) - 0.5, color="0.7", linewidth=0.8)
    ax.set_yticks(range(len(scores)), scores.index)
    ax.set_xticks(range(len(columns)), [name.replace(" ", "\n", 1) for name in columns], size=7)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    finish(ax, show=show, save=save)
    return ax


def _color(name: str) -> str:
    if name == "Total":
        return _OF_ALL
    return _OF_BATCH if name in _BATCH_METRICS or name == "Batch correction" else _OF_BIO
