"""What all plots do the same way: show and save figures, and write names beside points."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from cellfm._atomic import whole_file
from cellfm.errors import InputError

_GAPS = (2, 10, 20, 32, 46)  # typographic points between a point and its name, tried in this order
_LINE_FROM = 10  # a name so far away is joined to its point by a line
_ANGLES = np.arange(8) * np.pi / 4
_DIRECTIONS = np.column_stack([np.cos(_ANGLES), np.sin(_ANGLES)])


def finish(axes: Axes, *, show: bool | None, save: str | Path | None) -> None:
    """Save the figure of some axes to a file, show it, both or neither.

    Parameters
    ----------
    show
        By default a figure is shown unless it is saved, and left to the notebook where there is one.
    save
        File to write; its ending (``.png``, ``.pdf``, ``.svg``) decides the format.

    Raises
    ------
    InputError
        The file cannot be written, or matplotlib does not know the ending.
    """
    figure = axes.figure.canvas.figure  # the whole figure, also for axes of a part of it
    if save is not None:
        known = figure.canvas.get_supported_filetypes()
        if Path(save).suffix.lstrip(".") not in known:
            raise InputError(f"Cannot save a figure as {str(save)!r}; known endings: {', '.join(sorted(known))}.")
        with whole_file(save) as partial:
            figure.savefig(partial, bbox_inches="tight", dpi=200)
    if show or (show is None and save is None and plt.isinteractive()):
        plt.show()


def name_points(ax: Axes, points: np.ndarray, names: Sequence[str], *, on_point: bool = False, **text: Any) -> None:
    """Write a name beside each point, or on it where that is free, in the first place where it covers least.

    Call it when all else is drawn: places are chosen for the limits that the axes have then.

    Parameters
    ----------
    points
        (n, 2) in the units of the axes.
    on_point
        Try the point itself first.
    text
        Of `matplotlib.axes.Axes.annotate`.
    """
    figure = ax.figure.canvas.figure
    figure.draw_without_rendering()  # settles the layout
    pixel = figure.dpi / 72
    anchors = ax.transData.transform(points)
    inside = np.array(ax.bbox.extents)
    taken = [] if on_point else [np.r_[anchor - 2 * pixel, anchor + 2 * pixel] for anchor in anchors]
    for point, anchor, name in zip(points, anchors, names, strict=True):
        label = ax.annotate(name, point, (0, 0), textcoords="offset points", ha="center", va="center", **text)
        label.set_in_layout(False)
        extent = label.get_window_extent()
        half = np.array([extent.width, extent.height]) / 2
        places = [(np.zeros(2), 0)] if on_point else []
        places += [(direction * (half + gap * pixel), gap) for gap in _GAPS for direction in _DIRECTIONS]
        boxes = [np.r_[anchor + place - half, anchor + place + half] for place, _ in places]
        covered = [
            sum(_shared(box, other) for other in taken) + 4 * np.prod(half) - _shared(box, inside) for box in boxes
        ]
        best = int(np.argmin(np.round(covered)))
        (place, gap), box = places[best], boxes[best]
        offset = tuple(place / pixel)
        label.set_position(offset)
        taken.append(box)
        if gap >= _LINE_FROM:
            line = {"arrowstyle": "-", "linewidth": 0.4, "color": "grey", "shrinkA": 0, "shrinkB": 2}
            joined = ax.annotate("", point, offset, textcoords="offset points", arrowprops=line, zorder=1)
            joined.set_in_layout(False)


def _shared(box: np.ndarray, other: np.ndarray) -> float:
    """Area that two boxes (left, bottom, right, top) share."""
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    return float(np.prod(np.maximum(sides, 0)))
