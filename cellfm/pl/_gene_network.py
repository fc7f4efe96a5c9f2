"""`cf.pl.gene_network`: relations among chosen genes, with a panel for each embedding."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from mudata import MuData

from cellfm.cells.select import select
from cellfm.errors import InputError, MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.keys import MODULES
from cellfm.pl._figure import finish, write_message


@shared_docs
@checked
def gene_network(
    data: AnnData | MuData,
    *,
    key: str = MODULES.network,
    modality: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | list[Axes]:
    """Draw relations among chosen genes, with genes on a circle; the width and darkness of a line show the cosine.

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.gene_network`.
    key
        The table in `uns`, ``"cellfm_gene_network"`` by default.
    {modality}
    ax
        Axes to draw on, if the table has one embedding.
    {show}
    {save}

    Returns
    -------
    The axes, or a list of axes for several embeddings, with the genes in the same places. If no two genes are related,
    they contain only a message.

    Raises
    ------
    MissingKeyError
        There is no such table.
    InputError
        `ax` was given for several embeddings.

    Examples
    --------
    >>> cf.tl.embed_genes(adata)
    >>> cf.tl.gene_network(adata, ["CD3D", "CD3E", "MS4A1", "CD79A", "LYZ", "CST3"])
    >>> ax = cf.pl.gene_network(adata)
    """
    adata = select(data, modality)
    if key not in adata.uns:
        raise MissingKeyError(f"No uns[{key!r}]: call cf.tl.gene_network(adata, genes) first.")
    table: pd.DataFrame = adata.uns[key]
    embeddings = [column for column in table if column not in ("gene", "other")]
    if ax is not None and len(embeddings) > 1:
        raise InputError(f"ax= takes one embedding, the table has {len(embeddings)}.")
    if ax is None:
        _, grid = plt.subplots(
            1, len(embeddings), figsize=(5.5 * len(embeddings), 5.5), squeeze=False, layout="constrained"
        )
        axes = list(grid[0])
    else:
        axes = [ax]
    genes = list(dict.fromkeys([*table["gene"], *table["other"]]))
    angle = 2 * np.pi * np.arange(len(genes)) / max(1, len(genes))
    place = dict(zip(genes, np.column_stack((np.cos(angle), np.sin(angle))), strict=True))
    lines = [(place[one], place[other]) for one, other in zip(table["gene"], table["other"], strict=True)]
    for axis, embedding in zip(axes, embeddings, strict=True):
        axis.set_title(embedding)
        if not genes:
            write_message(axis, "No two of the genes have a cosine above 0.")
            continue
        strength = np.clip(table[embedding].to_numpy(float), 0, 1)
        colors = plt.get_cmap("Greys")(0.15 + 0.85 * strength)
        axis.add_collection(LineCollection(lines, linewidths=0.3 + 3 * strength, colors=colors, zorder=1))
        axis.scatter(*np.array(list(place.values())).T, s=30, color="tab:blue", zorder=2)
        for gene, turn in zip(genes, angle, strict=True):
            left = np.cos(turn) < 0
            axis.text(
                1.07 * np.cos(turn),
                1.07 * np.sin(turn),
                gene,
                rotation=np.degrees(turn) + (180 if left else 0),
                rotation_mode="anchor",
                ha="right" if left else "left",
                va="center",
                fontsize="small",
            )
        axis.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
        axis.axis("off")
    finish(axes[0], show=show, save=save)
    return axes[0] if len(axes) == 1 else axes
