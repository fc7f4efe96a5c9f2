"""`cf.pl.module_comparison`: enriched terms by resolution, for each source of modules."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from mudata import MuData

from cellfm.cells.select import select
from cellfm.errors import MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.keys import MODULES
from cellfm.pl._figure import finish


@shared_docs
@checked
def module_comparison(
    data: AnnData | MuData,
    *,
    key: str = MODULES.comparison,
    modality: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw the number of enriched terms by resolution: CellFM, co-expression and random modules (Zeng 2025, Fig. 5b).

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.compare_modules`.
    key
        The table in `uns`, ``"cellfm_module_comparison"`` by default.
    {modality}
    {ax}
    {show}
    {save}

    Returns
    -------
    The axes. Random modules are drawn as their mean, with the minimum and maximum of the draws; the legend gives the
    number of draws and the share without an enriched term.

    Raises
    ------
    MissingKeyError
        There is no such table.

    Examples
    --------
    >>> cf.tl.embed_genes(adata)
    >>> cf.tl.compare_modules(adata, gene_sets, resolutions=[1, 10])
    >>> ax = cf.pl.module_comparison(adata)
    """
    adata = select(data, modality)
    if key not in adata.uns:
        raise MissingKeyError(f"No uns[{key!r}]: call cf.tl.compare_modules(adata, gene_sets) first.")
    table: pd.DataFrame = adata.uns[key]
    if ax is None:
        ax = plt.subplots(figsize=(6, 4), layout="constrained")[1]
    for source, rows in table.groupby("source", sort=False, observed=True):
        by_resolution = rows.groupby("resolution")["n_enriched"].agg(["mean", "min", "max"])
        n_draws = rows["draw"].nunique()
        none = f" ({n_draws} draws, {(rows['n_enriched'] == 0).mean():.0%} without a term)" if n_draws > 1 else ""
        spread = [by_resolution["mean"] - by_resolution["min"], by_resolution["max"] - by_resolution["mean"]]
        ax.errorbar(
            by_resolution.index,
            by_resolution["mean"],
            yerr=spread if n_draws > 1 else None,
            marker="o",
            markersize=4,
            capsize=2,
            label=f"{source}{none}",
        )
    ax.set(xlabel="resolution", ylabel="enriched terms", ylim=(0, max(1, ax.get_ylim()[1])))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    finish(ax, show=show, save=save)
    return ax
