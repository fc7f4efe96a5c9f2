"""What all plots share: showing and saving figures, sizes of points, and readable names."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis

from cellfm.errors import InputError
from cellfm.io.atomic_file import atomic_file

_GAPS = (2, 10, 20, 32, 46)  # typographic points between a point and its name, tried in this order
_LINE_FROM = 10  # a name so far away is joined to its point by a line
_NAMES_COUNT = 10  # times as much as points, where something has to be covered
_PAD = 1.5  # typographic points from a name to the edge of the box around it
_ANGLES = np.arange(8) * np.pi / 4
_DIRECTIONS = np.column_stack([np.cos(_ANGLES), np.sin(_ANGLES)])
_MAX_POINT = 60.0  # typographic points squared
_MIN_FONT = 5.0  # typographic points
_LETTER_INCHES = 0.08  # a letter of the usual font


def finish(axes: Axes, *, show: bool | None, save: str | Path | None) -> None:
    """Save the figure of some axes to a file, show it, both or neither.

    Parameters
    ----------
    show
        By default a figure is shown unless it is saved or a notebook shows it.
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
        with atomic_file(save) as partial:
            figure.savefig(partial, bbox_inches="tight", dpi=200)
    if show or (show is None and save is None and plt.isinteractive()):
        plt.show()


def sized(options: Mapping[str, Any], n_points: int) -> dict[str, Any]:
    """Options of a scanpy scatter plot with a `size`: scanpy's rule, but without points that cover each other."""
    given = options.keys() & {"s", "size"}
    return dict(options) if given else {"size": min(120_000 / max(n_points, 1), _MAX_POINT), **options}


def point_area(n_points: int, *, most: float = _MAX_POINT) -> float:
    """Area of a point in typographic points squared, so that few points are visible and many do not cover each
    other.
    """
    return float(np.clip(20_000 / max(n_points, 1), 3, most))


def shorten(name: str, max_letters: int) -> str:
    """The name, with its middle cut out if it is too long."""
    if len(name) <= max_letters:
        return name
    tail = (max_letters - 1) // 2
    return f"{name[: max_letters - 1 - tail]}…{name[len(name) - tail :]}"


def label_inches(names: Sequence[str]) -> float:
    """Approximate length of the longest name."""
    return _LETTER_INCHES * max(map(len, names), default=0)


def fit_tick_labels(*axes: Axis) -> None:
    """Make tick labels small enough not to overlap; if that is not enough, leave some of them out.

    Call it after everything else is drawn: labels are fitted to the final size of the axes.
    """
    for axis in axes:
        axis.axes.figure.canvas.figure.draw_without_rendering()  # settles the layout
        labels = [label for label in axis.get_ticklabels() if label.get_text()]
        if len(labels) < 2:
            continue
        across, extent = (0, "width") if axis is axis.axes.xaxis else (1, "height")
        ticks = np.repeat(axis.get_ticklocs()[:, None], 2, axis=1)
        room = np.abs(np.diff(axis.axes.transData.transform(ticks)[:, across])).min()
        size = max(getattr(label.get_window_extent(), extent) for label in labels)
        font = labels[0].get_fontsize()
        fitting = max(min(font * room / size, font), _MIN_FONT)
        every = math.ceil(size * fitting / font / room - 1e-6)
        for i, label in enumerate(labels):
            label.set_fontsize(fitting)
            label.set_visible(i % every == 0)


def name_points(ax: Axes, points: np.ndarray, names: Sequence[str], *, on_point: bool = False, **text: Any) -> None:
    """Write a name on or beside each point, in the first position where it covers least.

    A name that would cover an earlier one in every position is left out, so pass the most important points first. Call
    it after everything else is drawn: positions are chosen for the final limits of the axes.

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
    written: list[np.ndarray] = []
    around = _PAD * pixel if "bbox" in text else 0.0
    for point, anchor, name in zip(points, anchors, names, strict=True):
        label = ax.annotate(name, point, (0, 0), textcoords="offset points", ha="center", va="center", **text)
        label.set_in_layout(False)
        extent = label.get_window_extent()
        half = np.array([extent.width, extent.height]) / 2 + around
        places = [(np.zeros(2), 0)] if on_point else []
        places += [(direction * (half + gap * pixel), gap) for gap in _GAPS for direction in _DIRECTIONS]
        boxes = [np.r_[anchor + place - half, anchor + place + half] for place, _ in places]
        covered = [
            sum(_shared(box, other) for other in (*taken, *written * _NAMES_COUNT))
            + 4 * np.prod(half)
            - _shared(box, inside)
            for box in boxes
        ]
        best = int(np.argmin(np.round(covered)))
        (place, gap), box = places[best], boxes[best]
        if sum(_shared(box, other) for other in written) > 1:  # pixel
            label.remove()
            continue
        offset = tuple(place / pixel)
        label.set_position(offset)
        written.append(box)
        if gap >= _LINE_FROM:
            line = {"arrowstyle": "-", "linewidth": 0.4, "color": "grey", "shrinkA": 0, "shrinkB": 2}
            joined = ax.annotate("", point, offset, textcoords="offset points", arrowprops=line, zorder=1)
            joined.set_in_layout(False)


def _shared(box: np.ndarray, other: np.ndarray) -> float:
    """Area that two boxes (left, bottom, right, top) share."""
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    return float(np.prod(np.maximum(sides, 0)))


def write_message(ax: Axes, message: str) -> None:
    """Write on empty axes why there is nothing to draw."""
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.text(0.5, 0.5, message, transform=ax.transAxes, ha="center", va="center", color="dimgrey", wrap=True)
