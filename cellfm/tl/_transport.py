"""`cf.tl.transport`: how cells would look in another condition."""

from pathlib import Path

import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.input_options import InputOptions
from cellfm.cells.outputs import record_run
from cellfm.cells.select import select
from cellfm.genes.match import MIN_KNOWN_GENES
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.io.messages import counted_of, warn
from cellfm.keys import TRANSPORT
from cellfm.tasks._fitted import resolve_fitted
from cellfm.tasks.transport._model import TransportModel
from cellfm.tasks.transport._read import read_given


@shared_docs
@checked
def transport(
    model: TransportModel | str | Path,
    cells: AnnData | MuData,
    *,
    layer: str | None = None,
    modality: str = "rna",
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
) -> AnnData:
    """Predict how cells would look in the target condition of a model.

    Parameters
    ----------
    model
        The result of `cf.tl.fit_transport`, or the folder in which it was saved.
    cells
        Cells of the source condition, with the genes of the fit in any order: counts for the ``cellfm`` space, counts
        or log1p of counts per 10,000 for the others. Their cell types may be new to the model.
    layer
        Layer with the expression; by default X.
    {modality}
    gene_key
        Column of `var` with the gene names for the CellFM model, or ``"var_names"``, where the automatic
        choice is wrong.
    {hgnc}
    min_known_genes
        Minimum number of genes that the CellFM model must know.

    Returns
    -------
    AnnData, n_cells x genes of the fit, with the cells' `obs`. X is the predicted log1p of counts per 10,000. It has:

    `obs["cellfm_condition"]`
        categorical: the target condition.
    `layers["cellfm_before"]`
        float32: log1p of counts per 10,000 of the original cells.
    `obsm["X_cellfm_transport"]`
        float32, (n_cells, n_latent): the predicted cells in the latent space.
    `obsm["X_cellfm_transport_before"]`
        float32, (n_cells, n_latent): the original cells in the latent space.
    `uns["cellfm"]["transport"]`
        dict: method, space, conditions, model, hashes, seed, version.

    Raises
    ------
    InputError
        Genes of the fit are missing, or the values are not what the space takes.
    MissingKeyError
        No such layer or modality.

    Examples
    --------
    >>> predicted = cf.tl.transport(fitted, adata[adata.obs["condition"] == "ctrl"])
    >>> predicted.n_obs
    100
    """
    model = resolve_fitted(model, TransportModel, "cf.tl.fit_transport")
    table = select(cells, modality)
    n_there = int((table.obs[model.condition_key] == model.target).sum()) if model.condition_key in table.obs else 0
    if n_there:
        warn(
            f"{counted_of(n_there, table.n_obs, 'cell')} {model.target!r} already, by obs[{model.condition_key!r}]; "
            f"the model maps cells from {model.source!r}."
        )
    options = InputOptions(layer=layer, gene_key=gene_key, hgnc=hgnc, min_known_genes=min_known_genes)
    given = read_given(model, table, options)
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
