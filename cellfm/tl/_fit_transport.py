"""`cf.tl.fit_transport`: cells of two conditions to a map from one to the other."""

from pathlib import Path
from typing import Literal

import numpy as np
from anndata import AnnData
from mudata import MuData

from cellfm.cells.input import read_input, refuse_empty
from cellfm.cells.input_options import InputOptions
from cellfm.cells.obs import read_complete_column
from cellfm.cells.select import select
from cellfm.errors import InputError
from cellfm.genes.match import MIN_KNOWN_GENES
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.keys import EMBED
from cellfm.model import CellFM, resolve_model
from cellfm.model._embed import stored_or_new_embedding
from cellfm.tasks._expression import read_expression
from cellfm.tasks.transport._fit import Cells, fit_conditions, variable_genes
from cellfm.tasks.transport._maps import BALANCED, METHODS, Method
from cellfm.tasks.transport._model import TransportModel
from cellfm.tasks.transport._recipe import Recipe
from cellfm.tasks.transport._scgen import require_pertpy
from cellfm.tasks.transport._spaces import MAX_GENES, SPACES, SpaceName
from cellfm.tasks.transport._split import split_cells


@shared_docs
@checked
def fit_transport(
    adata: AnnData | MuData,
    model: str | Path | CellFM = "mini",
    *,
    condition_key: str,
    source: str,
    target: str,
    method: Method = "cellot",
    space: SpaceName | None = None,
    holdout: tuple[str, str] | None = None,
    test_fraction: float = 0.2,
    groupby: str | None = None,
    decode: Literal["change", "whole"] = "change",
    n_genes: int | None = Recipe.n_genes,
    n_components: int = Recipe.n_components,
    n_steps: int = Recipe.n_steps,
    learning_rate: float = Recipe.learning_rate,
    batch_size: int = Recipe.batch_size,
    start: Literal["shift", "none"] = "shift",
    layer: str | None = None,
    modality: str = "rna",
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
    random_state: int = 0,
) -> TransportModel:
    """Learn how cells of one condition would look in another, such as treated with a drug, and judge it.

    No cell is ever measured in both conditions, so the map is learnt between two sets of cells: by optimal transport
    with convex potentials (CellOT, Bunne 2023) or with entropy (Cuturi 2013), or as a shift of the mean, in a latent
    space of ours or in that of scGen (Lotfollahi 2019). The result on test cells is compared with no change, the mean
    shift in the same space and the mean change of each gene: look at `evaluation` before you trust a prediction.

    Parameters
    ----------
    adata
        Cells of both conditions: counts for the ``cellfm`` space, counts or log1p of counts per 10,000 for the others.
        With MuData, the table `modality`. Cells of other conditions are ignored.
    model
        A model, its name or its path; see `cf.load_model`. Only the ``cellfm`` space needs it.
    condition_key
        Column of `obs` with the conditions.
    source
        Condition to map cells from.
    target
        Condition to map cells to.
    method
        ``"cellot"``: optimal transport with convex potentials. ``"entropic"``: with entropy (needs ott-jax: ``pip
        install 'cellfm[perturb]'``). ``"latent_shift"``: the mean over the groups of `groupby` of the difference of
        their means in the latent space. ``"mean_shift"``: the difference of the means over all cells. ``"scgen"``:
        scGen, which is the balanced shift of ``"latent_shift"`` in the variational autoencoder of scGen, trained by
        pertpy (``pip install 'cellfm[scgen]'``). ``"identity"``: no change. Each name always means the same algorithm,
        whatever is installed.
    space
        ``"cellfm"``: an autoencoder from CellFM embeddings to expression. ``"pca"``: principal components of the
        predicted genes. ``"genes"``: these genes themselves. ``"scgen"``: the variational autoencoder of scGen over
        these genes, trained by pertpy. By default ``"cellfm"``; the method ``"scgen"`` always uses ``"scgen"``.
    holdout
        Column of `obs` and a group, such as ``("cell_type", "B cells")``, whose cells are the test set; by default a
        random part of all cells is.
    test_fraction
        Size of that random part.
    groupby
        Column of `obs`, such as the cell type, with the groups over which ``"latent_shift"`` and ``"scgen"`` balance
        their shift. Both need it; the other methods do not accept it.
    decode
        Predict the ``"change"`` of a cell and add it to the measured values, or predict the ``"whole"`` cell.
    n_genes
        Number of most variable genes of the training cells to predict; None for all expressed genes.
    n_components
        Dimensions of the latent space.
    n_steps
        Maximum number of steps of CellOT's outer potential, each after ten of the inner one; training stops earlier if
        the validation cells do not improve.
    learning_rate
        Learning rate of CellOT.
    batch_size
        Cells of each condition in a step of CellOT.
    start
        Start CellOT from the ``"shift"`` of the mean, or from no change (``"none"``).
    layer
        Layer with the expression; by default X.
    {modality}
    gene_key
        Column of `var` with the gene names for the model, or ``"var_names"``, where the automatic
        choice is wrong.
    {hgnc}
    {min_known_genes}
    random_state
        Seed of everything.

    Returns
    -------
    The fitted model, for `cf.tl.transport` and `cf.tl.compare_transport`; it has `evaluation`, `history`, `save` and
    `load`. Nothing is written to `adata`. An embedding in ``obsm["X_cellfm"]`` is used if it comes from this model.

    Raises
    ------
    InputError
        Equal or missing conditions (the message lists the available ones), cells without a condition, fewer than 20
        cells of a condition for training or test, values that are neither counts nor log-normalised, too many genes for
        the ``genes`` space, `groupby` missing or given to a method that does not use it, or a `space` that ``"scgen"``
        does not have.
    MissingPackageError
        ott-jax or pertpy is needed and not installed. The error is also an `ImportError`, and the message names the
        extra.
    MissingKeyError
        There is no such column, layer or modality; the message lists the available ones.

    Examples
    --------
    >>> fitted = cf.tl.fit_transport(
    ...     adata, condition_key="condition", source="ctrl", target="stim", method="mean_shift", space="pca"
    ... )
    >>> fitted.evaluation[["method", "r2", "pearson_change"]]
    """
    recipe = Recipe(
        n_components=n_components,
        n_genes=n_genes,
        n_steps=n_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        start=start,
        decode=decode,
        random_state=random_state,
    )
    if space is None:
        space = "scgen" if method == "scgen" else "cellfm"
    _check(method, space, n_genes, test_fraction, holdout)
    _check_groupby(method, groupby)
    table = select(adata, modality)
    names = read_complete_column(table, condition_key, "condition_key")
    _check_conditions(names, condition_key, source, target)
    used = np.flatnonzero(np.isin(names, [source, target]))
    table, names = table[used].to_memory(), names[used]
    is_test = None if holdout is None else _group(table, *holdout)
    groups = None if groupby is None else read_complete_column(table, groupby, "groupby")
    parts = split_cells(
        {name: np.flatnonzero(names == name) for name in (source, target)},
        is_test,
        test_fraction=test_fraction,
        random_state=random_state,
    )
    values = read_expression(table, layer)
    train = np.concatenate([part.train for part in parts.values()])
    genes = variable_genes(values[train], n_genes)
    if space == "genes" and len(genes) > MAX_GENES:
        raise InputError(f"space='genes' takes at most {MAX_GENES:,} genes, found {len(genes):,}. Pass n_genes=1000.")
    loaded, embedding = None, None
    if space == "cellfm":
        loaded = resolve_model(model)
        options = InputOptions(layer=layer, gene_key=gene_key, hgnc=hgnc, min_known_genes=min_known_genes)
        embedding = _embedding(table, loaded, options)
    fitted = fit_conditions(
        Cells(values[:, genes].toarray(), embedding, groups),
        parts[source],
        parts[target],
        method=method,
        space=space,
        recipe=recipe,
    )
    return TransportModel(
        condition_key=condition_key,
        source=source,
        target=target,
        holdout=holdout,
        genes=tuple(map(str, table.var_names[genes])),
        space=fitted.space,
        map=fitted.map,
        recipe=recipe,
        history=fitted.history,
        evaluation=fitted.evaluation,
        model=loaded,
    )


def _check(method: str, space: str, n_genes: int | None, test_fraction: float, holdout: tuple[str, str] | None) -> None:
    for name, value, known in (("method", method, METHODS), ("space", space, SPACES)):
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(map(repr, known))}, not {value!r}.")
    if method == "entropic":
        from cellfm.tasks.transport._entropic import require_ott

        require_ott()
    if method == "scgen" and space != "scgen":
        raise InputError(
            f"method='scgen' works in scGen's own latent space, not in space={space!r}: leave space= out, or "
            "use method='latent_shift' for the same shift in that space."
        )
    if space == "scgen":
        require_pertpy()
    if space == "genes" and n_genes is not None and n_genes > MAX_GENES:
        raise InputError(f"space='genes' takes at most {MAX_GENES:,} genes, found n_genes={n_genes:,}.")
    if not 0 < test_fraction <= 0.5:
        raise InputError(f"test_fraction must be above 0 and at most 0.5, not {test_fraction!r}.")
    if holdout is not None and (isinstance(holdout, str) or len(holdout) != 2):
        raise InputError(f"holdout must be a column and a group, such as ('cell_type', 'B cells'), not {holdout!r}.")


def _check_groupby(method: str, groupby: str | None) -> None:
    if method in BALANCED and groupby is None:
        raise InputError(
            f"method={method!r} balances its shift over groups of cells: pass groupby= with a column of obs, such as "
            "the cell type, or use method='mean_shift', which is the same without groups."
        )
    if method not in BALANCED and groupby is not None:
        raise InputError(f"groupby= is for {' and '.join(map(repr, BALANCED))}; method={method!r} uses no groups.")


def _check_conditions(names: np.ndarray, condition_key: str, source: str, target: str) -> None:
    there = sorted(set(names))
    for label in (source, target):
        if label not in there:
            raise InputError(f"obs[{condition_key!r}] has no {label!r}; available: {', '.join(there[:20])}.")
    if source == target:
        raise InputError(f"source and target are both {source!r}; they must differ. Found {', '.join(there[:20])}.")


def _embedding(table: AnnData, model: CellFM, options: InputOptions) -> np.ndarray:
    cells = read_input(table, model.vocab, options)
    refuse_empty(cells)
    return stored_or_new_embedding(table, model, cells, key=EMBED.obsm)


def _group(table: AnnData, key: str, group: str) -> np.ndarray:
    values = read_complete_column(table, key, "holdout")
    found = values == str(group)
    if not found.any():
        there = sorted(set(values))
        raise InputError(f"obs[{key!r}] has no {group!r} in these conditions; available: {', '.join(there[:20])}.")
    return found
