"""`cf.tl.evaluate_perturbation_ranking`: how often the perturbation behind a state is found, and by chance."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from cellfm.errors import InputError
from cellfm.tasks.perturbation._baselines import ADDITIVE
from cellfm.tasks.perturbation._predictor import NETWORK, PerturbationPredictor, resolve_predictor
from cellfm.tasks.perturbation._reverse import (
    candidate_conditions,
    chance_of_hits,
    first_hits,
    order_of,
    require_distance,
    scores_of,
)
from cellfm.tasks.perturbation._target import LEAST_GENES


def evaluate_perturbation_ranking(
    predictor: PerturbationPredictor | str | Path,
    *,
    candidates: Sequence[str] | None = None,
    most: int = 10,
    by: Literal["cosine", "euclidean"] = "cosine",
    own_genes: bool = False,
) -> pd.DataFrame:
    """Look for each test condition among all candidates by its measured mean profile (Zeng 2025, hit@k).

    No measured profile of a candidate is used: all are predicted, by the network, by the additive model, and by
    what the predictor chose where that is another.

    Parameters
    ----------
    predictor
        What `cf.tl.fit_perturbation` returned, or a folder that it was saved in; it has test conditions.
    candidates
        Perturbations to choose from; by default all perturbed genes alone and in pairs. Test conditions that are not
        among them cannot be found, and are left out.
    most
        Hits are counted among the first 1 to `most` candidates.
    by
        What decides the order.
    own_genes
        Compare the candidates' own genes too, which gives the answer away.

    Returns
    -------
    DataFrame, a row for each predictor (``network``, ``additive``, `predictor.chosen`, ``chance``) and ``k``:
    ``correct``, the share of test conditions that are among the first `k`; ``relevant``, the share with a candidate
    among them that shares a gene; ``n_targets``, ``n_candidates``. Nothing is written.

    Raises
    ------
    InputError
        No test conditions among the candidates, or too few genes beside the candidates' own.

    Examples
    --------
    >>> hits = cf.tl.evaluate_perturbation_ranking(predictor)
    >>> hits.pivot(index="k", columns="predictor", values="correct").head(3)
    """
    require_distance(by)
    if most < 1:
        raise InputError(f"most must be 1 or more, not {most}.")
    predictor = resolve_predictor(predictor)
    conditions = candidate_conditions(predictor, candidates)
    targets = [condition for condition in predictor.split.test if condition in set(conditions)]
    if not targets:
        raise InputError("No test condition is among the candidates: there is nothing to find.")
    used = predictor.others_than(set() if own_genes else {gene for condition in conditions for gene in condition})
    if used.sum() < LEAST_GENES:
        raise InputError(
            f"Without the candidates' own genes {int(used.sum())} genes are left to compare; {LEAST_GENES} are needed. "
            "Name fewer candidates."
        )
    observed = predictor.profiles.changes(tuple(targets))[:, used]
    methods = dict.fromkeys((NETWORK, ADDITIVE, predictor.chosen))
    predicted = {method: predictor.changes(conditions, method) for method in methods}
    rows = []
    for name, changes in predicted.items():
        orders = [order_of(*scores_of(change, changes[:, used]), by) for change in observed]
        ranks = [first_hits(order, conditions, truth) for order, truth in zip(orders, targets, strict=True)]
        rows += [(name, k, *(sum(r[i] <= k for r in ranks) / len(ranks) for i in (0, 1))) for k in range(1, most + 1)]
    for k in range(1, most + 1):
        chances = [chance_of_hits(conditions, truth, k) for truth in targets]
        rows.append(("chance", k, *(sum(c[i] for c in chances) / len(chances) for i in (0, 1))))
    table = pd.DataFrame(rows, columns=["predictor", "k", "correct", "relevant"])
    return table.assign(n_targets=len(targets), n_candidates=len(conditions))
