"""`cf.pl.enrichment`: enriched terms of modules, as dots."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from mudata import MuData

from cellfm.cells.select import select
from cellfm.errors import MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.keys import MODULES
from cellfm.pl._figure import finish, fit_tick_labels, write_message

_LARGEST = 180  # points of area
_DARKEST = 20  # -log10 p; more looks the same


@shared_docs
@checked
def enrichment(
    data: AnnData | MuData,
    *,
    key: str = MODULES.enrichment,
    modules: Sequence[str] | None = None,
    n_terms: int = 3,
    alpha: float = 0.05,
    modality: str = "rna",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Draw enriched terms by module: colour shows significance, size the share of the term's genes in the module.

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.enrich_modules`.
    key
        The table in `uns`, ``"cellfm_enrichment"`` by default.
    modules
        Modules to draw; by default the ten with the most significant terms.
    n_terms
        Number of terms of each module.
    alpha
        Draw only terms with an adjusted p-value up to `alpha`.
    {modality}
    {ax}
    {show}
    {save}

    Returns
    -------
    The axes. If nothing is enriched, they contain only a message.

    Raises
    ------
    MissingKeyError
        There is no such table.

    Examples
    --------
    >>> cf.tl.embed_genes(adata)
    >>> cf.tl.gene_modules(adata, resolution=1)
    >>> cf.tl.enrich_modules(adata, gene_sets)
    >>> ax = cf.pl.enrichment(adata, n_terms=2)
    """
    adata = select(data, modality)
    if key not in adata.uns:
        raise MissingKeyError(f"No uns[{key!r}]: call cf.tl.enrich_modules(adata, gene_sets) first.")
    table: pd.DataFrame = adata.uns[key]
    found = table[table["p_adjusted"] <= alpha]
    chosen = list(dict.fromkeys(found["module"]))[:10] if modules is None else list(map(str, modules))
    found = found[found["module"].isin(chosen)]
    chosen.sort(key=lambda name: (len(name), name))
    tops = found.groupby("module", sort=False, observed=True).head(n_terms)
    terms = list(dict.fromkeys(tops.sort_values("module", key=lambda names: names.map(chosen.index))["term"]))
    shown = found[found["term"].isin(terms)]
    if ax is None:
        ax = plt.subplots(figsize=(3.5 + 0.4 * len(chosen), 1.5 + 0.25 * len(terms)), layout="constrained")[1]
    if found.empty:
        write_message(ax, f"No term has an adjusted p-value of {alpha:g} or less.")
    else:
        _draw(ax, shown, chosen, terms)
    finish(ax, show=show, save=save)
    return ax


def _draw(ax: Axes, shown: pd.DataFrame, chosen: list[str], terms: list[str]) -> None:
    dots = ax.scatter(
        shown["module"].map(chosen.index),
        shown["term"].map(terms.index),
        c=-np.log10(np.maximum(shown["p_adjusted"], 1e-300)),
        s=_LARGEST * (shown["overlap"] / shown["term_size"]) ** 0.5,
        cmap="viridis",
        vmax=_DARKEST,
    )
    ax.set(xlabel="module", xticks=range(len(chosen)), yticks=range(len(terms)))
    ax.set_xticklabels(chosen)
    ax.set_yticklabels(terms)
    ax.margins(x=0.1, y=0.05)
    ax.invert_yaxis()
    ax.figure.colorbar(dots, ax=ax, label="-log10 adjusted p", shrink=0.6, extend="max")
    fit_tick_labels(ax.xaxis, ax.yaxis)
