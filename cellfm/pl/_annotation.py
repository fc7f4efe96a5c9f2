"""`cf.pl.annotation`: predicted against true labels, and the confidence of each label."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from mudata import MuData

from cellfm.cells.obs import missing_values, require_column
from cellfm.cells.outputs import run_record
from cellfm.cells.select import select
from cellfm.errors import InputError, MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.keys import ANNOTATION, UNKNOWN
from cellfm.pl._figure import finish, fit_tick_labels, label_inches, shorten

Panel = Literal["confusion", "confidence"]
_PANELS = ("confusion", "confidence")
_INCHES = 0.32  # a label
_CONFIDENCE_INCHES = 3.5  # beside the names
_MAX_LETTERS = 36  # of a name
_MIN_FONT = 5.0  # typographic points of the shares in the squares; smaller ones are left out


@shared_docs
@checked
def annotation(
    data: AnnData | MuData,
    *,
    labels_key: str | None = None,
    panels: Panel | Sequence[Panel] | None = None,
    modality: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | list[Axes]:
    """Draw labels from `cf.tl.annotate` or `cf.tl.transfer_labels`.

    ``"confusion"``: rows are true labels, columns the predicted ones with ``"Unknown"`` last; the colour is the share
    of the row. ``"confidence"``: for each label before rejection the median (line), the middle half (bar) and the
    middle 90 % (whiskers) of its cells; the dashed line is the threshold below which a cell became ``"Unknown"``.

    Parameters
    ----------
    data
        Cells with the columns ``"cellfm_label"``, ``"cellfm_label_raw"`` and ``"cellfm_confidence"`` of `obs`; the
        threshold is in ``uns["cellfm"]["cellfm_proba"]``.
    labels_key
        Column of `obs` with the true labels, for ``"confusion"``; cells without a true label are left out.
    panels
        Panels to draw; by default both with `labels_key`, otherwise ``"confidence"``.
    {modality}
    ax
        Axes to draw on; only with one panel.
    {show}
    {save}

    Returns
    -------
    The axes; a list of them for two panels.

    Raises
    ------
    InputError
        An unknown panel, ``"confusion"`` without `labels_key`, no cell with a true label.
    MissingKeyError
        The cells are not annotated, or there is no such column; the message lists the available ones.

    Examples
    --------
    >>> cf.tl.annotate(query, reference=reference, labels_key="cell_type")
    >>> axes = cf.pl.annotation(query, labels_key="cell_type")
    """
    adata = select(data, modality)
    chosen = _chosen(panels, labels_key, ax)
    needed = {ANNOTATION.label, ANNOTATION.raw, ANNOTATION.confidence}
    if absent := sorted(needed - set(adata.obs)):
        raise MissingKeyError(
            f"No column {absent[0]!r} in obs. Run cf.tl.annotate or cf.tl.transfer_labels first; columns: "
            f"{', '.join(map(str, adata.obs.columns)) or 'none'}."
        )
    if labels_key is not None:
        require_column(adata.obs, labels_key, "labels_key")
    table = _confusion(adata, labels_key) if labels_key is not None and "confusion" in chosen else pd.DataFrame()

    axes = [ax] if ax is not None else _new_axes(chosen, table, adata.obs[ANNOTATION.raw])
    for axis, panel in zip(axes, chosen, strict=True):
        if panel == "confusion":
            _draw_confusion(axis, table)
        else:
            _draw_confidence(axis, adata)
    for axis, panel in zip(axes, chosen, strict=True):  # when the layout is settled
        fit_tick_labels(*([axis.xaxis, axis.yaxis] if panel == "confusion" else [axis.yaxis]))
        if panel == "confusion":
            _write_shares(axis, table)
    finish(axes[0], show=show, save=save)
    return axes[0] if len(axes) == 1 else axes


def _chosen(panels: Panel | Sequence[Panel] | None, labels_key: str | None, ax: Axes | None) -> list[str]:
    if panels is None:
        chosen = ["confidence"] if labels_key is None else list(_PANELS)
    else:
        chosen = [panels] if isinstance(panels, str) else list(panels)
    if unknown := [panel for panel in chosen if panel not in _PANELS]:
        raise InputError(f"No panel {unknown[0]!r}; available: {', '.join(map(repr, _PANELS))}.")
    if not chosen:
        raise InputError(f"panels= is empty; choose from {', '.join(map(repr, _PANELS))}.")
    if "confusion" in chosen and labels_key is None:
        raise InputError("The panel 'confusion' needs labels_key=, the column of obs with the true labels.")
    if ax is not None and len(chosen) > 1:
        raise InputError(f"ax= takes one panel, not {len(chosen)}: pass panels='confusion' or panels='confidence'.")
    return chosen


def _new_axes(chosen: list[str], table: pd.DataFrame, labels: pd.Series) -> list[Axes]:
    """Axes for the panels, large enough for all names to be readable."""
    names = [shorten(str(name), _MAX_LETTERS) + " (1,000)" for name in (*table.index, *labels.dropna().unique())]
    n_labels = max(len(table), labels.nunique(), 6)
    widths = [
        1.5
        + label_inches(names)
        + (1.3 * _INCHES * max(table.shape[1], 6) if panel == "confusion" else _CONFIDENCE_INCHES)
        for panel in chosen
    ]
    below = label_inches([shorten(str(name), _MAX_LETTERS) for name in table.columns])
    size = (sum(widths), 1 + below + _INCHES * n_labels)
    layout = ConstrainedLayoutEngine(w_pad=0.15)
    _, grid = plt.subplots(1, len(chosen), figsize=size, width_ratios=widths, squeeze=False, layout=layout)
    return list(grid[0])


def _confusion(adata: AnnData, labels_key: str) -> pd.DataFrame:
    """Cells by true (rows) and predicted label (columns); shared labels come first, in the same order."""
    obs = adata.obs[~missing_values(adata.obs[labels_key]) & adata.obs[ANNOTATION.label].notna()]
    if obs.empty:
        raise InputError(f"No cell has a label in obs[{labels_key!r}].")
    table = pd.crosstab(obs[labels_key].astype(str), obs[ANNOTATION.label].astype(str))
    both = [name for name in table.index if name in table.columns and name != UNKNOWN]
    rows = both + [name for name in table.index if name not in both]
    columns = both + [name for name in table.columns if name not in both and name != UNKNOWN]
    columns += [UNKNOWN] if UNKNOWN in table.columns else []
    return table.loc[rows, columns]


def _draw_confusion(axis: Axes, table: pd.DataFrame) -> None:
    share = table.to_numpy() / table.to_numpy().sum(1, keepdims=True)
    picture = axis.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axis.set_xticks(range(table.shape[1]), [shorten(name, _MAX_LETTERS) for name in table.columns], rotation=90)
    rows = [f"{shorten(str(name), _MAX_LETTERS)} ({n:,})" for name, n in table.sum(axis=1).items()]
    axis.set_yticks(range(len(table)), rows)
    axis.set_xlabel("predicted label")
    axis.set_ylabel("true label (cells)")
    axis.figure.colorbar(picture, ax=axis, label="share of the true label")


def _write_shares(axis: Axes, table: pd.DataFrame) -> None:
    """Write the shares, in per cent, into the squares if these are large enough."""
    share = table.to_numpy() / table.to_numpy().sum(1, keepdims=True)
    corners = axis.transData.transform([(0, 0), (1, 1)])
    width, height = 72 / axis.figure.dpi * np.abs(corners[1] - corners[0])
    font = min(width / 2.2, height / 1.2, 8.0)  # three digits are about two of their heights wide
    if font < _MIN_FONT:
        return
    for row, column in zip(*np.nonzero(share >= 0.005), strict=True):
        color = "white" if share[row, column] > 0.5 else "black"
        text = f"{share[row, column]:.0%}".rstrip("%")
        axis.text(column, row, text, ha="center", va="center", color=color, fontsize=font)


def _draw_confidence(axis: Axes, adata: AnnData) -> None:
    obs = adata.obs[adata.obs[ANNOTATION.raw].notna()]
    labels = obs[ANNOTATION.raw].astype(str)
    names = sorted(labels.unique(), reverse=True)
    parts = [obs[ANNOTATION.confidence][labels == name].to_numpy() for name in names]
    low, first, median, third, high = np.array([np.percentile(part, (5, 25, 50, 75, 95)) for part in parts]).T
    places = np.arange(len(names))
    axis.hlines(places, low, high, color="black", linewidth=1)
    axis.barh(places, third - first, left=first, height=0.6, color="tab:blue")
    axis.vlines(median, places - 0.4, places + 0.4, color="black", linewidth=1.5, zorder=3)
    rows = [f"{shorten(name, _MAX_LETTERS)} ({len(part):,})" for name, part in zip(names, parts, strict=True)]
    axis.set_yticks(places, rows)
    record = run_record(adata, ANNOTATION.proba, "obsm")
    if "confidence_threshold" in record:
        axis.axvline(float(record["confidence_threshold"]), color="black", linestyle="--", linewidth=1)
    axis.set_xlim(0, 1.02)
    axis.set_xlabel("confidence")
    axis.set_ylabel("label before rejection (cells)")
