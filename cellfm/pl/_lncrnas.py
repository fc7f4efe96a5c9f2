"""`cf.pl.lncrnas`: lncRNAs that mark groups of cells, as dots."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from cellfm._adata import warn
from cellfm._figure import finish
from cellfm.errors import InputError, MissingKeyError
from cellfm.keys import ATTENTION

_LARGEST = 200  # points of area, for a gene that every cell expresses


def lncrnas(
    adata: AnnData,
    *,
    key: str = ATTENTION.lncrnas,
    n_genes: int = 3,
    alpha: float = 0.05,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the most specific lncRNAs of each group: size is the share of cells that express one, colour specificity.

    Parameters
    ----------
    adata
        Cells x genes, after `cf.tl.rank_lncrnas`.
    key
        The table in `uns`, ``"cellfm_lncrnas"`` by default.
    n_genes
        Genes of each group.
    alpha
        Genes with a larger adjusted p-value are not chosen, unless there is no other (a warning says so).
    ax
        Axes to draw on.
    show
        Show the figure; by default if it is neither saved nor drawn by a notebook.
    save
        File to write the figure to.

    Returns
    -------
    The axes. A gene is drawn for every group in which it passed the filters.

    Raises
    ------
    MissingKeyError
        No such table.
    InputError
        No gene is specific to any group.

    Examples
    --------
    >>> cf.tl.rank_lncrnas(adata, groupby="cell_type", n_permutations=50)
    >>> ax = cf.pl.lncrnas(adata, alpha=1)
    """
    if key not in adata.uns:
        raise MissingKeyError(f"No uns[{key!r}]: call cf.tl.rank_lncrnas(adata, groupby=...) first.")
    table: pd.DataFrame = adata.uns[key]
    specific = table[table["specificity"] > 0]
    if specific.empty:
        raise InputError(f"No lncRNA of uns[{key!r}] is more specific to a group than to the others.")
    found = specific[specific["p_adjusted"] <= alpha]
    if found.empty:
        least = specific["p_adjusted"].min()
        warn(f"No lncRNA has an adjusted p-value up to {alpha:g} (least: {least:.2g}); the most specific are drawn.")
        found = specific
    groups = list(dict.fromkeys(table["group"]))
    genes = list(dict.fromkeys(found.groupby("group", sort=False, observed=True).head(n_genes)["gene"]))
    shown = table[table["gene"].isin(genes)]
    if ax is None:
        size = (3 + 0.35 * len(genes), 1.8 + 0.3 * len(groups))
        ax = plt.subplots(figsize=size, layout="constrained")[1]
    dots = ax.scatter(
        shown["gene"].map(genes.index),
        shown["group"].map(groups.index),
        s=_LARGEST * shown["fraction"],
        c=shown["specificity"],
        cmap="Reds",
        vmin=0,
        edgecolors="grey",
        linewidths=0.4,
    )
    ax.set(xticks=range(len(genes)), yticks=range(len(groups)))
    ax.set_xticklabels(genes, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticklabels(groups)
    ax.margins(x=0.05, y=0.1)
    ax.invert_yaxis()
    for share in (0.1, 0.5, 1.0):
        ax.scatter(
            [], [], s=_LARGEST * share, color="lightgrey", edgecolors="grey", linewidths=0.4, label=f"{share:.0%}"
        )
    ax.legend(title="cells", frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    ax.figure.colorbar(dots, ax=ax, label="specificity", shrink=0.5, anchor=(0, 0))
    finish(ax, show=show, save=save)
    return ax
