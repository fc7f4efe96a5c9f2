"""`cf.pl.training`: the curves of training runs."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from cellfm.errors import InputError, InputTypeError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.pl._figure import finish
from cellfm.train._run import read_log

_TERMS = {
    "gene": "masked values, by gene tokens",
    "cell": "masked values, by the cell",
    "contrast": "contrast of two views",
    "type": "contrast of cell types",
}
_KNN = "validation_knn"
_A_ROW = 3


@shared_docs
@checked
def training(
    run: str | Path | Mapping[str, str | Path],
    *,
    smooth: int = 1,
    log_scale: bool = False,
    show: bool | None = None,
    save: str | Path | None = None,
) -> list[Axes]:
    """Draw the curves of pretraining: loss of training and validation cells, its terms, and neighbours by type.

    Reads the log in the folder of a run, also while the run goes on.

    Parameters
    ----------
    run
        Folder of a run of `cf.train.pretrain`, or several to compare, by name.
    smooth
        Logged steps over which the training loss is averaged; validation is drawn as it is.
    log_scale
        Draw losses on a logarithmic axis.
    {show}
    {save}

    Returns
    -------
    The axes: the loss (dashed: of validation cells), each of its terms if there are several, and the share of
    validation cells whose nearest neighbours have their type, if it was measured.

    Raises
    ------
    InputError
        A folder holds no training run, or nothing has been logged yet.

    Examples
    --------
    >>> shape = {"n_layers": 1, "d_model": 32, "n_heads": 2, "d_value": 16}
    >>> config = {"model": shape, "train": {"steps": 2, "batch_size": 8, "log_every": 1}}
    >>> small = cf.train.pretrain("corpus", config, out="run")
    >>> axes = cf.pl.training("run")
    """
    if not isinstance(run, str | Path | Mapping):
        raise InputTypeError(f"run must be a folder, or folders by name, not {type(run).__name__}.")
    runs = dict(run) if isinstance(run, Mapping) else {Path(run).name: run}
    if not runs:
        raise InputError("run is empty: pass a folder, or several by name.")
    logs = {name: read_log(folder) for name, folder in runs.items()}
    terms = [term for term in _TERMS if any(term in log and log[term].fillna(0).any() for log in logs.values())]
    shown = ["loss", *(terms if len(terms) > 1 else []), *([_KNN] if _any(logs, _KNN) else [])]
    n_columns = min(len(shown), _A_ROW)
    n_rows = -(-len(shown) // n_columns)
    size = (4.2 * n_columns, 3.4 * n_rows)
    _, grid = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")
    axes = list(grid.flat)
    for axis, column in zip(axes, shown, strict=False):
        _draw(axis, logs, column, smooth)
        if log_scale and column != _KNN:
            axis.set_yscale("log")
    for axis in axes[len(shown) :]:
        axis.remove()
    if len(logs) > 1 or _any(logs, "validation_loss"):
        axes[0].legend()
    finish(axes[0], show=show, save=save)
    return axes[: len(shown)]


def _any(logs: Mapping[str, pd.DataFrame], column: str) -> bool:
    return any(column in log and log[column].notna().any() for log in logs.values())


def _draw(axis: Axes, logs: Mapping[str, pd.DataFrame], column: str, smooth: int) -> None:
    for i, (name, log) in enumerate(logs.items()):
        values = log[column].dropna() if column in log else pd.Series(dtype=float)
        if column == _KNN:
            axis.plot(values.index, values, color=f"C{i}", marker=".", label=name)
            continue
        axis.plot(values.index, values.rolling(smooth, min_periods=1).mean(), color=f"C{i}", label=name)
        if column == "loss" and _any({name: log}, "validation_loss"):
            held_out = log["validation_loss"].dropna()
            label = f"{name}, validation"
            axis.plot(held_out.index, held_out, color=f"C{i}", linestyle="--", marker=".", label=label)
    axis.set_xlabel("step")
    axis.set_ylabel("share of cells" if column == _KNN else "loss")
    axis.set_title("neighbours of the same type" if column == _KNN else _TERMS.get(column, column))
