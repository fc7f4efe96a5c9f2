"""Showing and saving figures, the same way for every plot."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from cellfm._atomic import whole_file
from cellfm.errors import InputError


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
