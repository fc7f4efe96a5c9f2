"""`cf.pl.gene_modules`: the map of genes, coloured by module."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from mudata import MuData
from scanpy.plotting.palettes import default_20

from cellfm.cells.select import select
from cellfm.errors import MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.messages import counted
from cellfm.keys import MODULES
from cellfm.pl._figure import finish, point_area

_MAX_NAME = 32  # letters
_LARGEST = 40  # points of area


@shared_docs
@checked
def gene_modules(
    data: AnnData | MuData,
    *,
    key: str = MODULES.var,
    n_modules: int = 20,
    enrichment: str | None = MODULES.enrichment,
    alpha: float = 0.05,
    modality: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the genes as a UMAP, coloured by module.

    Parameters
    ----------
    data
        Cells x genes, after ``cf.tl.gene_modules(adata, umap=True)``.
    key
        The `key_added` of `cf.tl.gene_modules`, ``"cellfm_module"`` by default; the UMAP is
        ``varm["cellfm_modules_umap"]``.
    n_modules
        Number of modules that get a colour, the largest first; other genes are grey.
    enrichment
        Table in `uns` (``"cellfm_enrichment"``, see `cf.tl.enrich_modules`) whose most significant term names a module
        in the legend; without it, modules are numbered.
    alpha
        Use only terms with an adjusted p-value up to `alpha`.
    {modality}
    {ax}
    {show}
    {save}

    Returns
    -------
    The axes.

    Raises
    ------
    MissingKeyError
        There are no modules, or they have no UMAP.

    Examples
    --------
    >>> cf.tl.embed_genes(adata)
    >>> cf.tl.gene_modules(adata, resolution=5, umap=True)
    >>> ax = cf.pl.gene_modules(adata, save="modules.png")
    """
    adata = select(data, modality)
    umap = MODULES.umap if key == MODULES.var else f"{key}s_umap"
    if key not in adata.var or umap not in adata.varm:
        raise MissingKeyError(f"No map of modules {key!r}: call cf.tl.gene_modules(adata, umap=True) first.")
    points = np.asarray(adata.varm[umap])
    modules = adata.var[key].cat.codes.to_numpy()
    names = _names(adata, enrichment, alpha)
    if ax is None:
        ax = plt.subplots(figsize=(8, 5), layout="constrained")[1]
    shown = np.isfinite(points[:, 0])
    size = point_area(int(shown.sum()), most=_LARGEST)
    grey = shown & ((modules < 0) | (modules >= n_modules))
    ax.scatter(points[grey, 0], points[grey, 1], s=0.5 * size, color="lightgrey", linewidths=0, rasterized=True)
    for module in range(min(n_modules, modules.max(initial=-1) + 1)):
        label = f"{module}: {names[str(module)]}" if str(module) in names else str(module)
        x, y = points[modules == module].T
        ax.scatter(x, y, s=size, color=default_20[module % 20], linewidths=0, label=label, rasterized=True)
    ax.set(
        xticks=[],
        yticks=[],
        xlabel="UMAP1",
        ylabel="UMAP2",
        title=counted(int(shown.sum()), "gene") + (", none in a module" if modules.max(initial=-1) < 0 else ""),
    )
    if ax.get_legend_handles_labels()[0]:
        legend = ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small")
        for handle in legend.legend_handles:
            if isinstance(handle, PathCollection):
                handle.set_sizes([_LARGEST])
    finish(ax, show=show, save=save)
    return ax


def _names(adata: AnnData, enrichment: str | None, alpha: float) -> dict[str, str]:
    """The most significant term of each module."""
    if enrichment is None or enrichment not in adata.uns:
        return {}
    table: pd.DataFrame = adata.uns[enrichment]
    first = table[table["p_adjusted"] <= alpha].drop_duplicates("module")
    return {
        str(module): term if len(term) <= _MAX_NAME else term[: _MAX_NAME - 3] + "..."
        for module, term in zip(first["module"], first["term"], strict=True)
    }
