"""`cf.tl.transport`: cells as they would look in another condition."""

from pathlib import Path

import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.outputs import record_run
from cellfm.cells.select import select
from cellfm.genes.match import MIN_KNOWN_GENES
from cellfm.io.docstrings import shared_docs
from cellfm.io.messages import counted_of, warn
from cellfm.keys import TRANSPORT
from cellfm.tasks.transport._model import TransportModel
from cellfm.tasks.transport._read import read_given


@shared_docs
def transport(
    model: TransportModel,
    cells: AnnData | MuData,
    *,
    layer: str | None = None,
    modality: str = "rna",
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
) -> AnnData:
    """Predict how cells would look in the condition that a model carries to.

    Parameters
    ----------
    model
        What `cf.tl.fit_transport` returned.
    cells
        Cells of the condition that the model carries from, with the genes of the fit in any order: counts for the
        ``cellfm`` space, counts or log1p of counts per 10,000 for the others. Kinds of cells may be new to it.
    layer
        Layer with the expression; by default X.
    {modality}
    gene_key
        Column of `var` with the gene names for the CellFM model, or ``"var_names"``, where the automatic
        choice is wrong.
    {hgnc}
    min_known_genes
        Least number of genes that the CellFM model must know.

    Returns
    -------
    AnnData, n_cells x genes of the fit, with the cells' `obs`; X is predicted log1p of counts per 10,000, with:

    `obs["cellfm_condition"]`
        categorical: the condition that the cells were carried to.
    `layers["cellfm_before"]`
        float32: the same of the cells as they are.
    `obsm["X_cellfm_transport"]`
        float32, (n_cells, n_latent): the cells in the latent space, carried.
    `obsm["X_cellfm_transport_before"]`
        float32, (n_cells, n_latent): the cells in the latent space as they are.
    `uns["cellfm"]["transport"]`
        dict: method, space, conditions, model, hashes, seed, version.

    Raises
    ------
    InputError
        Genes of the fit are not measured, or values that the space does not take.
    MissingKeyError
        No such layer or modality.

    Examples
    --------
    >>> predicted = cf.tl.transport(fitted, adata[adata.obs["condition"] == "ctrl"])
    >>> predicted.n_obs
    100
    """
    table = select(cells, modality)
    n_there = int((table.obs[model.condition_key] == model.target).sum()) if model.condition_key in table.obs else 0
    if n_there:
        warn(
            f"{counted_of(n_there, table.n_obs, 'cell')} {model.target!r} already, by obs[{model.condition_key!r}]; "
            f"the model carries cells from {model.source!r}."
        )
    options = {"layer": layer, "gene_key": gene_key, "hgnc": hgnc, "min_known_genes": min_known_genes}
    given = read_given(model, table, **options)
    moved = model.carry(given.x, given.values)
    found = AnnData(
        moved.values,
        obs=table.obs.assign(**{TRANSPORT.condition: pd.Categorical([model.target] * table.n_obs)}),
        var=pd.DataFrame(index=list(model.genes)),
        layers={TRANSPORT.layer: given.values},
        obsm={TRANSPORT.obsm: moved.after, TRANSPORT.before: moved.before},
    )
    record_run(found, TRANSPORT.uns, **model.facts())
    return found
