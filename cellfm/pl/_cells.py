"""`cf.pl.cells`: cells in two dimensions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from anndata import AnnData
from matplotlib.axes import Axes
from mudata import MuData

from cellfm.cells.select import select
from cellfm.errors import InputError, MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.messages import counted
from cellfm.pl._figure import finish, sized


@shared_docs
@checked
def cells(
    data: AnnData | MuData,
    *,
    color: str | Sequence[str] | None = None,
    basis: str = "X_umap",
    modality: str = "rna",
    title: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    **kwargs: Any,
) -> Axes | list[Axes]:
    """Draw cells in two dimensions, with one panel for each colouring.

    Parameters
    ----------
    data
        Cells with a two-dimensional `obsm` entry, such as that of `scanpy.tl.umap`; see the example.
    color
        Column of `obs` or gene to colour by; a list gives several panels.
    basis
        The `obsm` entry to draw; ``obsm["X_umap"]`` by default.
    {modality}
    title
        Title of each panel; by default the column or gene.
    ax
        Axes to draw on; only with at most one colouring.
    {show}
    {save}
    kwargs
        Passed to `scanpy.pl.embedding`; the default `size` is scanpy's, or smaller for few cells.

    Returns
    -------
    The axes; a list of them for several colourings.

    Raises
    ------
    MissingKeyError
        There is no such `obsm` entry, column or gene; the message lists the available ones.

    Examples
    --------
    >>> cf.tl.embed(adata)
    >>> sc.pp.neighbors(adata, use_rep="X_cellfm")
    >>> sc.tl.umap(adata)
    >>> axes = cf.pl.cells(adata, color=["cell_type", "CD3E"])
    """
    import scanpy as sc  # slow to import

    adata = select(data, modality)
    if basis not in adata.obsm:
        there = ", ".join(map(str, adata.obsm)) or "nothing"
        raise MissingKeyError(
            f"No obsm[{basis!r}]; available: {there}. Make one with sc.pp.neighbors(adata, use_rep='X_cellfm') and "
            "sc.tl.umap(adata)."
        )
    colors = [color] if color is None or isinstance(color, str) else list(color)
    titles = [title] if title is None or isinstance(title, str) else list(title)
    titles = titles * len(colors) if titles == [None] else titles
    _check(adata, colors, titles, ax)
    if ax is not None:
        axes = [ax]
    else:
        # Room for the legends beside each panel.
        _, grid = plt.subplots(1, len(colors), figsize=(6 * len(colors), 4), squeeze=False, layout="constrained")
        axes = list(grid[0])
    options = sized(kwargs, adata.n_obs)
    for axis, one, heading in zip(axes, colors, titles, strict=True):
        # scanpy finds "umap" as "X_umap" and calls the axes UMAP1 and UMAP2.
        sc.pl.embedding(adata, basis=basis.removeprefix("X_"), color=one, title=heading, ax=axis, show=False, **options)
    finish(axes[0], show=show, save=save)
    return axes[0] if len(axes) == 1 else axes


def _check(adata: AnnData, colors: list, titles: list, ax: Axes | None) -> None:
    genes = adata.var_names if adata.raw is None else adata.raw.var_names.union(adata.var_names)
    for one in colors:
        if one is not None and one not in adata.obs and one not in genes:
            columns = ", ".join(map(str, adata.obs.columns)) or "none"
            raise MissingKeyError(f"{one!r} is neither a column of obs nor a gene. Columns: {columns}.")
    if ax is not None and len(colors) > 1:
        raise InputError(f"ax= takes one colouring, not {len(colors)}.")
    if len(titles) != len(colors):
        raise InputError(f"{counted(len(titles), 'title')} for {counted(len(colors), 'panel')}; pass one for each.")
