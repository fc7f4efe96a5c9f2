"""`cf.pl.attention`: the genes that CLS reads most in each group of cells."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from cellfm._figure import finish
from cellfm.errors import InputError, MissingKeyError
from cellfm.keys import ATTENTION, RUN


def attention(
    adata: AnnData,
    *,
    key: str = ATTENTION.varm,
    genes: Sequence[str] | None = None,
    n_genes: int = 5,
    relative: bool = True,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw attention scores as a heat map: rows are genes that are read, columns the groups whose cells read them.

    Parameters
    ----------
    adata
        Cells x genes, after `cf.tl.attention`.
    key
        The scores in `varm`: ``"cellfm_attention"``, the reading of CLS, or ``"cellfm_attention_<gene>"``, that of a
        gene.
    genes
        Genes to draw; by default those of each group that stand out most against the mean of the groups.
    n_genes
        Genes of each group, where they are not given.
    relative
        Draw how much a score is above or below the mean of the groups, where there are several, not the score itself.
    ax
        Axes to draw on.
    show
        Show the figure; by default if it is neither saved nor drawn by a notebook.
    save
        File to write the figure to.

    Returns
    -------
    The axes.

    Raises
    ------
    MissingKeyError
        No such scores, or a gene without any.
    InputError
        No gene has a score in all groups.

    Examples
    --------
    >>> cf.tl.attention(adata, groupby="cell_type", min_cells=10)
    >>> ax = cf.pl.attention(adata, n_genes=3)
    """
    record = next(
        (run for name, run in adata.uns.get(RUN, {}).items() if key.startswith(name) and "groups" in run), None
    )
    if key not in adata.varm or record is None:
        raise MissingKeyError(f"No varm[{key!r}]: call cf.tl.attention(adata) first.")
    table = pd.DataFrame(np.asarray(adata.varm[key]), index=adata.var_names, columns=list(record["groups"]))
    if genes is None:
        above = table.sub(table.mean(axis=1), axis=0) if table.shape[1] > 1 else table
        above = above[table.notna().all(axis=1)]
        genes = list(dict.fromkeys(gene for group in above for gene in above[group].nlargest(n_genes).index))
        if not genes:
            raise InputError(
                f"No gene has a score in all {table.shape[1]} groups: too few of their cells express the same ones. "
                "Pass genes=, or call cf.tl.attention with a lower min_cells or fewer groups."
            )
    unknown = [gene for gene in genes if gene not in table.index or table.loc[gene].isna().all()]
    if unknown:
        raise MissingKeyError(f"{len(unknown)} genes have no scores: {', '.join(unknown[:10])}.")
    shown = table.loc[list(genes)]
    if ax is None:
        size = (2.5 + 0.45 * shown.shape[1], 1.5 + 0.2 * len(shown))
        ax = plt.subplots(figsize=size, layout="constrained")[1]
    if relative and shown.shape[1] > 1:
        shown = shown.sub(shown.mean(axis=1), axis=0)
        most = float(np.nanmax(np.abs(shown)))
        image = ax.imshow(shown, aspect="auto", cmap="RdBu_r", vmin=-most, vmax=most)
        label = "rank of the score, above the mean of the groups"
    else:
        image = ax.imshow(shown, aspect="auto", cmap="viridis", vmin=0, vmax=1)
        label = "rank of the score"
    ax.set(xticks=range(shown.shape[1]), yticks=range(len(shown)))
    ax.set_xticklabels(shown.columns, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticklabels(shown.index, fontsize="small")
    ax.figure.colorbar(image, ax=ax, label=label, shrink=0.6)
    finish(ax, show=show, save=save)
    return ax
