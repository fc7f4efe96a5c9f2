"""`cf.pl.attention`: the genes with the most attention in each group of cells, beside expression."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
from cellfm.keys import ATTENTION
from cellfm.pl._figure import finish, fit_tick_labels, write_message


@shared_docs
@checked
def attention(
    data: AnnData | MuData,
    *,
    key: str = ATTENTION.varm,
    genes: Sequence[str] | None = None,
    n_genes: int = 5,
    relative: bool = True,
    expression: bool = True,
    modality: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw attention scores as a heat map, with genes as rows and groups of cells as columns.

    The right half shows the control, the same ranks by expression alone: where the two halves look alike, the figure
    merely shows expression. The title says which layer was read; the layer and the ``groups`` come from the record of
    the run in ``uns["cellfm"]`` (``attention_layer``).

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.attention`.
    key
        The scores in `varm`: ``"cellfm_attention"`` for the attention of the cell token, or
        ``"cellfm_attention_<gene>"`` for that of a gene.
    genes
        Genes to draw; by default those of each group that differ most from the mean of the groups.
    n_genes
        Number of genes of each group, if `genes` is not given.
    relative
        With several groups, draw the difference from the mean of the groups instead of the score.
    expression
        Also draw the control.
    {modality}
    {ax}
    {show}
    {save}

    Returns
    -------
    The axes. If no gene has a score in all groups, they contain only a message.

    Raises
    ------
    MissingKeyError
        There are no such scores, or a gene has none.

    Examples
    --------
    >>> cf.tl.attention(adata, groupby="cell_type", min_cells=10)
    >>> ax = cf.pl.attention(adata, n_genes=3)
    """
    adata = select(data, modality)
    name, record = _record(adata, key)
    if key not in adata.varm or not record:
        raise MissingKeyError(f"No varm[{key!r}]: call cf.tl.attention(adata) first.")
    groups = list(record[ATTENTION.groups])
    table = pd.DataFrame(np.asarray(adata.varm[key]), index=adata.var_names, columns=groups)
    if genes is None:
        above = table.sub(table.mean(axis=1), axis=0) if table.shape[1] > 1 else table
        above = above[table.notna().all(axis=1)]
        genes = list(dict.fromkeys(gene for group in above for gene in above[group].nlargest(n_genes).index))
    unknown = [gene for gene in genes if gene not in table.index or table.loc[gene].isna().all()]
    if unknown:
        raise MissingKeyError(
            f"{counted(len(unknown), 'gene has', 'genes have')} no scores: {', '.join(unknown[:10])}."
        )
    shown = {_title(key, name, record): table.loc[list(genes)]}
    control = f"{key}_expression"
    if expression and control in adata.varm:
        shown["by expression alone"] = pd.DataFrame(
            np.asarray(adata.varm[control]), index=adata.var_names, columns=groups
        ).loc[list(genes)]
    if ax is None:
        size = (2.5 + 0.45 * len(shown) * (len(groups) + 1), 2 + 0.2 * len(genes))
        ax = plt.subplots(figsize=size, layout="constrained")[1]
    if not len(genes):
        write_message(
            ax,
            f"No gene has a score in {'all ' if len(groups) > 1 else ''}{counted(len(groups), 'group')}.\n"
            "Lower min_cells= of cf.tl.attention, or pass genes=.",
        )
    else:
        _draw(ax, shown, relative=relative and len(groups) > 1)
    finish(ax, show=show, save=save)
    return ax


def _draw(ax: Axes, shown: dict[str, pd.DataFrame], *, relative: bool) -> None:
    """Tables side by side, with an empty column between them."""
    groups, genes = (list(axis) for axis in (shown[next(iter(shown))].columns, shown[next(iter(shown))].index))
    width = len(groups) + 1
    values = np.full((len(genes), width * len(shown) - 1), np.nan)
    for i, table in enumerate(shown.values()):
        own = table.sub(table.mean(axis=1), axis=0) if relative else table
        values[:, i * width : i * width + len(groups)] = own
    if relative:
        most = max(float(np.nanmax(np.abs(values))), 1e-6)
        image = ax.imshow(values, aspect="auto", cmap="RdBu_r", vmin=-most, vmax=most)
        label = "rank in the cell, above the mean of the groups"
    else:
        image = ax.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=1)
        label = "rank in the cell"
    ax.set(xticks=[i * width + j for i in range(len(shown)) for j in range(len(groups))], yticks=range(len(genes)))
    ax.set_xticklabels(groups * len(shown), rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticklabels(genes, fontsize="small")
    for i, title in enumerate(shown):
        middle = i * width + (len(groups) - 1) / 2
        ax.annotate(
            title,
            (middle, 1),
            (0, 4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            fontsize="small",
        )
    ax.figure.colorbar(image, ax=ax, label=label, shrink=0.6)
    fit_tick_labels(ax.yaxis)


def _record(adata: AnnData, key: str) -> tuple[str, Mapping[str, Any]]:
    """The run that wrote the scores, and its name: ``key`` or what ``key`` begins with."""
    starts = [key[:end] for end in range(len(key), 0, -1) if end == len(key) or key[end] == "_"]
    name = next((start for start in starts if ATTENTION.groups in run_record(adata, start, "varm")), "")
    return name, run_record(adata, name, "varm")


def _title(key: str, name: str, record: Mapping[str, Any]) -> str:
    reader = key[len(name) + 1 :] or "CLS"
    layer = record.get(ATTENTION.attention_layer)
    return f"read by {reader}" + ("" if layer is None else f",\nlayer {layer} of {record['model']}")
