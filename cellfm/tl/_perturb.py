"""`cf.tl.perturb`: predicted expression under perturbations, as profiles or as cells."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfm.cells.outputs import record_run
from cellfm.io.arguments import checked
from cellfm.io.messages import warn
from cellfm.keys import PERTURBATION
from cellfm.tasks._fitted import resolve_fitted
from cellfm.tasks.perturbation._conditions import Condition, name_of
from cellfm.tasks.perturbation._predictor import NETWORK, PerturbationPredictor


@checked
def perturb(
    predictor: PerturbationPredictor | str | Path,
    perturbations: Sequence[str],
    *,
    method: str | None = None,
    cells: bool = False,
) -> AnnData:
    """Predict expression under perturbations.

    Parameters
    ----------
    predictor
        The result of `cf.tl.fit_perturbation`, or the folder in which it was saved.
    perturbations
        Perturbations such as ``["A", "A+B"]``; the order and spelling of a pair do not matter.
    method
        The predictor to use: ``"network"``, ``"gene effects"``, ``"additive"``, ``"bilinear, CellFM genes"`` or
        another of `predictor.methods`; by default `predictor.chosen`, the best on the validation conditions.
    cells
        Return one row for each perturbation and each control cell that the predictor keeps (at most 300), instead of
        one mean profile for each perturbation. The predicted change is the same for all cells.

    Returns
    -------
    AnnData, (n_perturbations or n_perturbations * n_controls) x n_genes. X is the predicted log1p of counts per 10,000
    (values slightly below 0 are not clipped). It has:

    `obs["cellfm_perturbation"]`
        categorical: the perturbation.
    `obs["cellfm_part"]`
        categorical: ``train``, ``validation``, ``test`` or ``new``, by whether the predictor has seen the perturbation.
    `layers["cellfm_change"]`
        float32: predicted change against control.
    `layers["cellfm_observed_change"]`
        float32: mean change measured in the data of the fit; NaN for perturbations that were not measured.
    `layers["cellfm_change_sd"]`
        float32: standard deviation, around the predicted change, of differences between the means of `cells_per_pair`
        perturbed and as many control cells (only for a network with an uncertainty head).
    `uns["cellfm"]["perturbation"]`
        dict: model, hashes, the method, seed, version.

    Raises
    ------
    InputError
        A gene or method that the predictor does not know, or a label that cannot be read.

    Warns
    -----
    DataWarning
        The method predicts the same for different perturbations, because it knows nothing of their genes.

    Examples
    --------
    >>> predicted = cf.tl.perturb(predictor, ["CD3D", "CD3D+LYZ"])
    >>> predicted.obs_names.tolist()
    ['CD3D', 'CD3D+LYZ']
    """
    predictor = resolve_fitted(predictor, PerturbationPredictor, "cf.tl.fit_perturbation")
    conditions = predictor.conditions(perturbations)
    method = predictor.method(method)
    with_spread = predictor.recipe.uncertainty and method == NETWORK
    if with_spread:
        changes, variances = predictor.changes_and_variances(conditions)
    else:
        changes = predictor.changes(conditions, method)
    _warn_of_equal(conditions, changes, method)
    n = len(predictor.controls) if cells else 1
    start = predictor.controls if cells else predictor.profiles.control[None]
    change = np.repeat(changes, n, axis=0)
    names = [name_of(condition) for condition in conditions]
    index = [f"{name}-{i}" if cells else name for name in names for i in range(n)]
    parts = [predictor.split.part_of(condition) or "new" for condition in conditions]
    obs = pd.DataFrame(
        {
            PERTURBATION.condition: pd.Categorical(np.repeat(names, n)),
            PERTURBATION.part: pd.Categorical(np.repeat(parts, n)),
        },
        index=index,
    )
    adata = AnnData(np.tile(start, (len(names), 1)) + change, obs=obs, var=pd.DataFrame(index=list(predictor.genes)))
    adata.layers[PERTURBATION.change] = change
    measured = predictor.profiles
    rows = [measured.conditions.index(c) if c in measured.conditions else -1 for c in conditions]
    observed = np.where(np.array(rows)[:, None] >= 0, measured.mean[rows] - measured.control, np.nan)
    adata.layers[PERTURBATION.observed] = np.repeat(observed, n, axis=0).astype(np.float32)
    if with_spread:
        adata.layers[PERTURBATION.spread] = np.repeat(np.sqrt(variances), n, axis=0)
    seed = predictor.recipe.random_state
    record_run(adata, PERTURBATION.uns, **predictor.facts(), method=method, random_state=seed)
    return adata


def _warn_of_equal(conditions: list[Condition], changes: np.ndarray, method: str) -> None:
    """Warn of different perturbations with the same prediction: the method knows nothing that tells them apart."""
    of_change: dict[bytes, list[str]] = {}
    for condition, change in dict(zip(conditions, changes, strict=True)).items():
        of_change.setdefault(change.tobytes(), []).append(name_of(condition))
    for names in of_change.values():
        if len(names) > 1:
            warn(
                f"{method!r} predicts the same change for {', '.join(names[:10])}: it learned nothing that "
                "distinguishes these perturbations, such as the effects of their genes. Try another method=."
            )
