"""`cf.tl.compare_transport`: predicted cells beside observed cells of the target condition."""

from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.input_options import InputOptions
from cellfm.cells.outputs import record_run
from cellfm.cells.select import select
from cellfm.errors import InputError
from cellfm.genes.match import MIN_KNOWN_GENES
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.keys import TRANSPORT
from cellfm.tasks._fitted import resolve_fitted
from cellfm.tasks.transport._fit import row_of
from cellfm.tasks.transport._metrics import evaluate
from cellfm.tasks.transport._model import TransportModel
from cellfm.tasks.transport._read import read_given

STATES = ("before", "predicted", "observed")
MIN_CELLS = 3


@shared_docs
@checked
def compare_transport(
    model: TransportModel | str | Path,
    cells: AnnData | MuData,
    *,
    observed: AnnData | MuData,
    umap: bool = False,
    layer: str | None = None,
    modality: str = "rna",
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
    random_state: int = 0,
) -> AnnData:
    """Compare cells before and after a transport map with cells observed in the target condition.

    Parameters
    ----------
    model
        The result of `cf.tl.fit_transport`, or the folder in which it was saved.
    cells
        Cells of the source condition, as for `cf.tl.transport`.
    observed
        Cells of the target condition, in the same form and of the same cell types.
    umap
        Store a UMAP of the latent cells of all three states.
    layer
        Layer with the expression, in both tables; by default X.
    {modality}
    gene_key
        Column of `var` with the gene names for the CellFM model, or ``"var_names"``, where the automatic
        choice is wrong.
    {hgnc}
    min_known_genes
        Minimum number of genes that the CellFM model must know.
    random_state
        Seed of the UMAP, and of the sample of cells whose distributions are compared if there are more than 1,000.

    Returns
    -------
    AnnData, (2 * n_cells + n_observed) x genes of the fit. X is log1p of counts per 10,000, float32. It has:

    `obs["cellfm_state"]`
        categorical: ``before``, ``predicted`` or ``observed``.
    `obsm["X_cellfm_transport"]`
        float32, (n_obs, n_latent): the cells in the latent space.
    `obsm["X_cellfm_transport_umap"]`
        float32, (n_obs, 2): UMAP of these (with `umap`).
    `uns["cellfm"]["transport"]`
        dict: the facts of the run, and under ``scores`` a DataFrame with a row for the method and one for no change,
        in the columns of `TransportModel.evaluation`.

    Raises
    ------
    InputError
        Genes of the fit are missing, the values are not what the space takes, or a condition has fewer than 3 cells.
    MissingKeyError
        No such layer or modality.

    Examples
    --------
    >>> control, treated = (adata[adata.obs["condition"] == name] for name in ("ctrl", "stim"))
    >>> compared = cf.tl.compare_transport(fitted, control, observed=treated)
    >>> compared
    """
    model = resolve_fitted(model, TransportModel, "cf.tl.fit_transport")
    tables = [select(table, modality) for table in (cells, observed)]
    if few := [table.n_obs for table in tables if table.n_obs < MIN_CELLS]:
        raise InputError(f"Expected at least {MIN_CELLS} cells of each condition, found {few[0]}.")
    options = InputOptions(layer=layer, gene_key=gene_key, hgnc=hgnc, min_known_genes=min_known_genes)
    before, there = (read_given(model, table, options) for table in tables)
    moved = model.carry(before.x, before.values)
    sizes = [len(moved.values), len(moved.values), len(there.values)]
    state = np.repeat(np.arange(len(STATES)), sizes)
    obs = pd.concat([tables[0].obs, tables[0].obs, tables[1].obs])
    # Categories in the order of what happens, which is the order that they are drawn in.
    obs = obs.assign(**{TRANSPORT.state: pd.Categorical.from_codes(state, pd.Index(STATES))})
    obs.index = [f"{name}-{STATES[i]}" for name, i in zip(obs.index, state, strict=True)]
    found = AnnData(
        np.concatenate([before.values, moved.values, there.values]),
        obs=obs,
        var=pd.DataFrame(index=list(model.genes)),
        obsm={TRANSPORT.obsm: np.concatenate([moved.before, moved.after, model.space.encode(there.x)])},
    )
    if umap:
        from cellfm.tasks.integration._umap import umap_of

        found.obsm[TRANSPORT.umap] = umap_of(found.obsm[TRANSPORT.obsm], random_state=random_state)
    predictions = {row_of(model.method): moved.values, "identity": before.values}
    scores = evaluate(predictions, there.values, before.values, random_state=random_state)
    record_run(found, TRANSPORT.uns, **model.facts(), **{TRANSPORT.scores: scores})
    return found
