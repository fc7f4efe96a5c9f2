"""`cf.pl.gene_contributions`: the genes that contribute most to each group, beside the specificity of expression."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from mudata import MuData

from cellfm.cells.outputs import run_record
from cellfm.cells.select import select
from cellfm.errors import MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.messages import counted
from cellfm.keys import ATTENTION, CONTRIBUTIONS
from cellfm.pl._figure import finish, fit_tick_labels, write_message

CONTROL = "expression_specificity"


@shared_docs
@checked
def gene_contributions(
    data: AnnData | MuData,
    *,
    key: str = CONTRIBUTIONS.uns,
    genes: Sequence[str] | None = None,
    n_genes: int = 5,
    expression: bool = True,
    modality: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw contributions of genes as a heat map, with genes as rows and groups as columns.

    Each column is divided by its largest value, so that groups are comparable. The right half shows the control, the
    specificity of expression, in the same way: where the two halves look alike, expression alone gives the same answer.
    The title says which layer was read, from the record of the run in ``uns["cellfm"]`` (``attention_layer``).

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.gene_contributions`.
    key
        The table in `uns`, ``"cellfm_contributions"`` by default.
    genes
        Genes to draw; by default those that contribute most to each group.
    n_genes
        Number of genes of each group, if `genes` is not given.
    expression
        Also draw the control, if the groups are compared with other cells.
    {modality}
    {ax}
    {show}
    {save}

    Returns
    -------
    The axes. If no gene is listed, they contain only a message.

    Raises
    ------
    MissingKeyError
        There is no such table, or a gene is not in it.

    Examples
    --------
    >>> cf.tl.gene_contributions(adata, groupby="cell_type")
    >>> ax = cf.pl.gene_contributions(adata, n_genes=3)
    """
    adata = select(data, modality)
    if key not in adata.uns:
        raise MissingKeyError(f"No uns[{key!r}]: call cf.tl.gene_contributions(adata, groupby=...) first.")
    table: pd.DataFrame = adata.uns[key]
    if genes is None:
        genes = list(dict.fromkeys(table.groupby("group", sort=False, observed=True).head(n_genes)["gene"]))
    if unknown := sorted(set(genes) - set(table["gene"])):
        raise MissingKeyError(
            f"{counted(len(unknown), 'gene has', 'genes have')} no contributions: {', '.join(unknown[:10])}."
        )
    shown = {_title(adata, key): _by_group(table, "contribution", genes)}
    if expression and table[CONTROL].notna().any():
        shown["specificity of expression"] = _by_group(table, CONTROL, genes)
    if ax is None:
        size = (2.5 + 0.45 * sum(len(part.columns) + 1 for part in shown.values()), 2 + 0.2 * len(genes))
        ax = plt.subplots(figsize=size, layout="constrained")[1]
    if genes:
        _draw(ax, shown)
    else:
        write_message(ax, "No gene is listed: too few cells of the groups express one.")
    finish(ax, show=show, save=save)
    return ax


def _by_group(table: pd.DataFrame, column: str, genes: Sequence[str]) -> pd.DataFrame:
    """Genes x groups, each group divided by its largest value over all genes; 0 for genes that it does not express."""
    wide = table.drop_duplicates(["gene", "group"]).pivot(index="gene", columns="group", values=column)
    wide = wide[list(dict.fromkeys(table["group"]))].fillna(0.0)
    return (wide / wide.abs().max().replace(0, 1)).loc[list(genes)]


def _draw(ax: Axes, shown: dict[str, pd.DataFrame]) -> None:
    """Tables side by side, with an empty column between them."""
    first = next(iter(shown.values()))
    groups, gap = list(first.columns), np.full((len(first), 1), np.nan)
    parts = [array for part in shown.values() for array in (part.to_numpy(), gap)][:-1]
    image = ax.imshow(np.hstack(parts), aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1)
    starts = np.arange(len(shown)) * (len(groups) + 1)
    ax.set(xticks=np.add.outer(starts, np.arange(len(groups))).ravel(), yticks=range(len(first)))
    ax.set_xticklabels(groups * len(shown), rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticklabels(first.index, fontsize="small")
    for start, title in zip(starts, shown, strict=True):
        ax.annotate(
            title,
            (start + (len(groups) - 1) / 2, 1),
            (0, 4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            fontsize="small",
        )
    ax.figure.colorbar(image, ax=ax, label="share of the largest of the group", shrink=0.6)
    fit_tick_labels(ax.yaxis)


def _title(adata: AnnData, key: str) -> str:
    record = run_record(adata, key, "uns")
    layer = record.get(ATTENTION.attention_layer)
    return "contribution" + ("" if layer is None else f",\nlayer {layer} of {record['model']}")
