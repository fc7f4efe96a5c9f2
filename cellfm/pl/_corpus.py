"""`cf.pl.corpus`: the composition of a corpus."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from cellfm.corpus._corpus import Corpus
from cellfm.errors import InputError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.messages import counted
from cellfm.pl._figure import finish, fit_tick_labels, shorten

_COLUMNS = ("source", "tissue", "platform", "assay", "cell_type", "condition", "disease")
_A_ROW = 4
_BINS = 60
_MAX_LABEL = 30  # letters


@shared_docs
@checked
def corpus(
    corpus: Corpus | str | Path,
    *,
    columns: Sequence[str] | None = None,
    max_bars: int = 15,
    show: bool | None = None,
    save: str | Path | None = None,
) -> list[Axes]:
    """Draw the composition of a corpus: cells by source, tissue, platform, type and condition; genes and counts per
    cell.

    This is the paper's figure of its data set (Zeng 2025), for your own shards.

    Parameters
    ----------
    corpus
        The result of `cf.train.write_shards`, or its folder.
    columns
        Columns to draw as bars, one panel each. By default those of ``source``, ``tissue``, ``platform``, ``assay``,
        ``cell_type``, ``condition`` and ``disease`` that the corpus has.
    max_bars
        Maximum number of bars in a panel; rarer values are combined in one bar.
    {show}
    {save}

    Returns
    -------
    The axes: one for each column, then genes per cell and counts per cell.

    Raises
    ------
    MissingKeyError
        The corpus has no such column; the message lists the available ones.
    CheckpointError
        There is no corpus in that folder, or it is damaged.

    Examples
    --------
    >>> axes = cf.pl.corpus("corpus", columns=["cell_type"])
    """
    if max_bars < 2:
        raise InputError(f"max_bars must be at least 2, not {max_bars}.")
    opened = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    shown = [column for column in _COLUMNS if column in opened.columns] if columns is None else list(columns)
    bars = [_bars(opened, column, max_bars) for column in shown]
    n_panels = len(shown) + 2
    n_rows = -(-n_panels // _A_ROW)
    n_columns = -(-n_panels // n_rows)
    height = 1.5 + 0.22 * max([8, *(len(labels) for labels, _ in bars)])
    size = (4.5 * n_columns, height * n_rows)
    _, grid = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")
    axes = list(grid.flat)
    for axis, column, (labels, counts) in zip(axes, shown, bars, strict=False):
        _draw_bars(axis, column, labels, counts)
    _draw_histogram(axes[len(shown)], opened.lengths.astype(np.float64), "genes per cell")
    _draw_histogram(axes[len(shown) + 1], opened.depth(np.arange(opened.n_cells)), "counts per cell")
    for axis in axes[n_panels:]:
        axis.remove()
    fit_tick_labels(*(axis.yaxis for axis in axes[: len(shown)]))
    finish(axes[0], show=show, save=save)
    return axes[:n_panels]


def _bars(opened: Corpus, column: str, max_bars: int) -> tuple[list[str], np.ndarray]:
    """Labels and numbers of cells, the most frequent first; rare labels are combined, unlabelled cells come last."""
    categories = opened.categories(column)
    tally = np.bincount(opened.codes(column) + 1, minlength=len(categories) + 1)
    counts, n_missing = tally[1:], int(tally[0])
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    kept = order if len(order) <= max_bars else order[: max_bars - 1]
    labels = [categories[i] for i in kept]
    numbers = counts[kept].tolist()
    if len(kept) < len(order):
        labels.append(counted(len(order) - len(kept), "other"))
        numbers.append(int(counts[order[len(kept) :]].sum()))
    if n_missing:
        labels.append("not given")
        numbers.append(n_missing)
    return labels, np.array(numbers)


def _draw_bars(axis: Axes, column: str, labels: list[str], counts: np.ndarray) -> None:
    places = np.arange(len(labels))
    axis.barh(places, counts, color="tab:blue")
    axis.set_yticks(places, [shorten(label, _MAX_LABEL) for label in labels])
    axis.invert_yaxis()
    axis.set_xlabel("cells")
    axis.set_title(column.replace("_", " "))


def _draw_histogram(axis: Axes, values: np.ndarray, title: str) -> None:
    low, high = max(float(values.min()), 1.0), max(float(values.max()), 1.0)
    axis.hist(values, bins=np.geomspace(low, high * 1.001, _BINS).tolist(), color="tab:blue")
    axis.set_xscale("log")
    axis.axvline(float(np.median(values)), color="black", linewidth=1)
    axis.set_xlabel(title)
    axis.set_ylabel("cells")
    axis.set_title(f"{title} (median {np.median(values):,.0f})")
