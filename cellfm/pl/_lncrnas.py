"""`cf.pl.lncrnas`: lncRNAs that mark groups of cells, as dots: by attention on the left, by expression on the right."""

from pathlib import Path
from typing import Literal

import matplotlib.pyplot as plt
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.markers import MarkerStyle
from mudata import MuData

from cellfm.cells.outputs import run_record
from cellfm.cells.select import select
from cellfm.errors import MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.messages import warn
from cellfm.keys import ATTENTION
from cellfm.pl._figure import finish, fit_tick_labels, write_message

_LARGEST = 200  # points of area, for a gene that every cell expresses


@shared_docs
@checked
def lncrnas(
    data: AnnData | MuData,
    *,
    key: str = ATTENTION.lncrnas,
    n_genes: int = 3,
    alpha: float = 0.05,
    expression: bool = True,
    modality: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the most specific lncRNAs of each group: size shows the share of cells that express it, colour the
    specificity.

    The left half of a dot shows the specificity by attention, the right half the control, the specificity by expression
    alone: where the halves look alike, expression alone would have found the gene. The title says which layer was read,
    from the record of the run in ``uns["cellfm"]`` (``attention_layer``).

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.rank_lncrnas`.
    key
        The table in `uns`, ``"cellfm_lncrnas"`` by default.
    n_genes
        Number of genes of each group.
    alpha
        Draw only genes with an adjusted p-value up to `alpha`. If there are none, the most specific genes are drawn; a
        warning and the title say so.
    expression
        Draw the control as the right half of each dot; otherwise dots show only attention.
    {modality}
    {ax}
    {show}
    {save}

    Returns
    -------
    The axes. A gene is drawn for every group in which it passed the filters. If no gene is more specific to one group
    than to the others, or none was tested, the axes contain only a message.

    Raises
    ------
    MissingKeyError
        There is no such table.

    Warns
    -----
    DataWarning
        No gene has an adjusted p-value up to `alpha`.

    Examples
    --------
    >>> cf.tl.rank_lncrnas(adata, groupby="cell_type", n_permutations=50)
    >>> ax = cf.pl.lncrnas(adata, alpha=1)
    """
    adata = select(data, modality)
    if key not in adata.uns:
        raise MissingKeyError(f"No uns[{key!r}]: call cf.tl.rank_lncrnas(adata, groupby=...) first.")
    table: pd.DataFrame = adata.uns[key]
    specific = table[table["specificity"] > 0]
    found = specific[specific["p_adjusted"] <= alpha]
    title = _title(adata, key)
    if found.empty and len(specific):
        least = specific["p_adjusted"].min()
        warn(f"No lncRNA has an adjusted p-value up to {alpha:g} (smallest: {least:.2g}); the most specific are drawn.")
        title = f"{title}\nnone with an adjusted p up to {alpha:g}: the most specific".strip()
        found = specific
    groups = list(dict.fromkeys(table["group"]))
    genes = list(dict.fromkeys(found.groupby("group", sort=False, observed=True).head(n_genes)["gene"]))
    if ax is None:
        size = (3 + 0.35 * len(genes), 1.8 + 0.3 * len(groups))
        ax = plt.subplots(figsize=size, layout="constrained")[1]
    if genes:
        _draw(ax, table[table["gene"].isin(genes)], genes, groups, expression and "expression_specificity" in table)
        ax.set_title(title, fontsize="small")
    elif len(table):
        write_message(ax, "No lncRNA is more specific to one group than to the others.")
    else:
        write_message(ax, "No lncRNA is listed: too few cells express one.")
    finish(ax, show=show, save=save)
    return ax


def _draw(ax: Axes, shown: pd.DataFrame, genes: list[str], groups: list[str], expression: bool) -> None:
    halves: dict[str, Literal["left", "right", "full"]]
    halves = {"specificity": "left", "expression_specificity": "right"} if expression else {"specificity": "full"}
    most = float(shown[list(halves)].to_numpy().max())
    for column, side in halves.items():
        dots = ax.scatter(
            shown["gene"].map(genes.index),
            shown["group"].map(groups.index),
            s=_LARGEST * shown["fraction"],
            c=shown[column],
            marker=MarkerStyle("o", fillstyle=side),
            cmap="Reds",
            vmin=0,
            vmax=most,
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
    label = "specificity,\nleft by attention,\nright by expression" if expression else "specificity"
    ax.figure.colorbar(dots, ax=ax, label=label, shrink=0.6, anchor=(0, 0))
    fit_tick_labels(ax.yaxis)


def _title(adata: AnnData, key: str) -> str:
    record = run_record(adata, key, "uns")
    layer = record.get(ATTENTION.attention_layer)
    return "" if layer is None else f"read by CLS, layer {layer} of {record['model']}"
