"""`cf.tl.rank_perturbations`: the perturbations that may lead to a state."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfm.errors import InputError
from cellfm.io.arguments import checked
from cellfm.tasks._fitted import resolve_fitted
from cellfm.tasks.perturbation._conditions import name_of
from cellfm.tasks.perturbation._predictor import PerturbationPredictor
from cellfm.tasks.perturbation._reverse import candidate_conditions, order_of, require_distance, scores_of
from cellfm.tasks.perturbation._target import MIN_GENES, target_change


@checked
def rank_perturbations(
    predictor: PerturbationPredictor | str | Path,
    target: AnnData | pd.Series,
    *,
    candidates: Sequence[str] | None = None,
    control: AnnData | pd.Series | None = None,
    method: str | None = None,
    measured: bool = True,
    own_genes: bool = False,
    by: Literal["cosine", "euclidean"] = "cosine",
    top_k: int | None = 20,
    layer: str | None = None,
) -> pd.DataFrame:
    """Rank candidate perturbations by the similarity of their predicted state to a target state (Zeng 2025).

    States are compared as changes against control. The expression of the perturbed genes themselves would give the
    answer away, so the genes of all candidates are left out of the comparison.

    Parameters
    ----------
    predictor
        The result of `cf.tl.fit_perturbation`, or the folder in which it was saved.
    target
        Cells in the target state (counts or log-normalised; their mean is used), or a mean profile of log1p of counts
        per 10,000 by gene.
    candidates
        Perturbations such as ``["A", "A+B"]``; by default all perturbed genes of the data, alone and in pairs.
    control
        Control cells or profile from which the target's change is computed; by default the control of the predictor.
        Pass it if the target comes from another experiment.
    method
        The predictor to use: ``"network"``, ``"gene effects"``, ``"additive"``, ``"bilinear, CellFM genes"`` or
        another of `predictor.methods`; by default `predictor.chosen`, the best on the validation conditions.
    measured
        For conditions that the predictor was trained on, use the measured change instead of the predicted one.
    own_genes
        Also compare the perturbed genes of the candidates, which gives the answer away.
    by
        Measure by which candidates are ordered.
    top_k
        Rows to return; None for all.
    layer
        Layer of `target` (and `control`) with the expression.

    Returns
    -------
    DataFrame, the nearest candidate first: ``perturbation``, ``cosine``, ``euclidean``, ``source`` (``measured`` or
    ``predicted``) and ``n_genes``, the number of genes compared. Nothing is written.

    Raises
    ------
    InputError
        The target shares too few genes with the predictor, apart from those of the candidates; or a candidate is
        unknown.

    Examples
    --------
    >>> cells = perturbed[perturbed.obs["condition"] == "CD3D+LYZ"]
    >>> cf.tl.rank_perturbations(predictor, cells, top_k=3)
    """
    require_distance(by)
    predictor = resolve_fitted(predictor, PerturbationPredictor, "cf.tl.fit_perturbation")
    method = predictor.method(method)
    conditions = candidate_conditions(predictor, candidates)
    change, used = target_change(predictor, target, control, layer)
    if not own_genes:
        used = used & predictor.others_than({gene for condition in conditions for gene in condition})
        if used.sum() < MIN_GENES:
            raise InputError(
                f"Without the candidates' own genes {int(used.sum())} genes are left to compare; {MIN_GENES} are "
                "needed. Pass fewer candidates, or own_genes=True, which gives their expression away."
            )
    changes = predictor.changes(conditions, method)
    taken = np.array([measured and condition in predictor.learnt for condition in conditions])
    if taken.any():
        changes[taken] = predictor.profiles.changes(
            tuple(condition for condition, one in zip(conditions, taken, strict=True) if one)
        )
    cosine, euclidean = scores_of(change[used], changes[:, used])
    order = order_of(cosine, euclidean, by)[:top_k]
    columns = {
        "perturbation": np.array([name_of(condition) for condition in conditions], object),
        "cosine": cosine,
        "euclidean": euclidean,
        "source": np.where(taken, "measured", "predicted"),
    }
    table = pd.DataFrame({name: values[order] for name, values in columns.items()})
    return table.assign(n_genes=int(used.sum()))
