"""`cf.pl.integration`: cells before and after integration, by batch and by label."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from mudata import MuData

from cellfm.cells.obs import read_column
from cellfm.cells.select import select
from cellfm.errors import MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.keys import INTEGRATION
from cellfm.pl._figure import finish, sized


@shared_docs
@checked
def integration(
    data: AnnData | MuData,
    *,
    batch_key: str,
    label_key: str | None = None,
    before: str | None = INTEGRATION.umap_before,
    after: str = INTEGRATION.umap,
    modality: str = "rna",
    show: bool | None = None,
    save: str | Path | None = None,
    **kwargs: Any,
) -> list[Axes]:
    """Draw cells before and after integration, one row each, with a column for the batch and one for the label.

    Nothing is computed: `cf.tl.integrate` with ``umap=True`` stores both UMAPs.

    Parameters
    ----------
    data
        Cells with two-dimensional `obsm` entries.
    batch_key
        Column of `obs` with the batches.
    label_key
        Column of `obs` with the cell types, if available.
    before
        Entry of `obsm`, by default ``obsm["X_cellfm_umap"]``; None leaves out this row.
    after
        Entry of `obsm`, by default ``obsm["X_cellfm_integrated_umap"]``.
    {modality}
    {show}
    {save}
    kwargs
        Passed to `scanpy.pl.embedding`; the default `size` is scanpy's, or smaller for few cells.

    Returns
    -------
    The axes, row by row.

    Raises
    ------
    MissingKeyError
        There is no such `obsm` entry or column; the message lists the available ones.

    Examples
    --------
    >>> # integrated is what cf.tl.integrate(adata, batch_key="donor", umap=True) made
    >>> axes = cf.pl.integration(integrated, batch_key="donor", label_key="cell_type")
    """
    import scanpy as sc  # slow to import

    adata = select(data, modality)
    rows = {"before": before, "after": after} if before is not None else {"after": after}
    columns = [batch_key] if label_key is None else [batch_key, label_key]
    _check(adata, list(rows.values()), columns)
    groups = pd.DataFrame({key: _categories(adata, key) for key in columns}, adata.obs_names)
    _, grid = plt.subplots(
        len(rows), len(columns), figsize=(5.5 * len(columns), 4 * len(rows)), squeeze=False, layout="constrained"
    )
    # Cells of all batches take turns, so that none hides the others; those without an embedding are left out.
    order = np.random.default_rng(0).permutation(adata.n_obs)
    for axes, (heading, basis) in zip(grid, rows.items(), strict=True):
        drawn = order[np.isfinite(np.asarray(adata.obsm[basis])[order]).all(axis=1)]
        cells = AnnData(obs=groups.iloc[drawn], obsm={"X_shown": np.asarray(adata.obsm[basis])[drawn]})
        for key in columns:
            if f"{key}_colors" in adata.uns:
                cells.uns[f"{key}_colors"] = list(adata.uns[f"{key}_colors"])
        for axis, key in zip(axes, columns, strict=True):
            options = {"frameon": False, "sort_order": False} | sized(kwargs, len(drawn))
            sc.pl.embedding(cells, basis="shown", color=key, title=f"{heading}: {key}", ax=axis, show=False, **options)
    finish(grid[0, 0], show=show, save=save)
    return list(grid.ravel())


def _categories(adata: AnnData, key: str) -> pd.Categorical:
    """A column as groups; this includes columns of numbers."""
    column = adata.obs[key]
    if isinstance(column.dtype, pd.CategoricalDtype):
        return pd.Categorical(column)
    return pd.Categorical(read_column(adata, key, "batch_key"))


def _check(adata: AnnData, bases: list[str], columns: list[str]) -> None:
    for basis in bases:
        if basis not in adata.obsm:
            there = ", ".join(map(str, adata.obsm)) or "nothing"
            raise MissingKeyError(
                f"No obsm[{basis!r}]; available: {there}. cf.tl.integrate(..., umap=True) stores UMAPs of before and "
                "after; before=None leaves the first out."
            )
    for column in columns:
        if column not in adata.obs:
            there = ", ".join(map(str, adata.obs.columns)) or "none"
            raise MissingKeyError(f"{column!r} is not a column of obs. Columns: {there}.")
