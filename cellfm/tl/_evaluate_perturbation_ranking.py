"""`cf.tl.evaluate_perturbation_ranking`: how often the right perturbation is found for a state, compared with
chance.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from cellfm.errors import InputError
from cellfm.io.arguments import checked
from cellfm.tasks._fitted import resolve_fitted
from cellfm.tasks.perturbation._baselines import ADDITIVE, GENE_EFFECTS
from cellfm.tasks.perturbation._predictor import NETWORK, PerturbationPredictor
from cellfm.tasks.perturbation._reverse import (
    candidate_conditions,
    chance_of_hits,
    first_hits,
    order_of,
    require_distance,
    scores_of,
)
from cellfm.tasks.perturbation._target import MIN_GENES


@checked
def evaluate_perturbation_ranking(
    predictor: PerturbationPredictor | str | Path,
    *,
    candidates: Sequence[str] | None = None,
    most: int = 10,
    by: Literal["cosine", "euclidean"] = "cosine",
    own_genes: bool = False,
) -> pd.DataFrame:
    """Search for each test condition among all candidates, by its measured mean profile (hit@k; Zeng 2025).

    Measured profiles of the candidates are not used: all are predicted, by the network, by the additive model, by the
    effects of the genes, and by `predictor.chosen` if that is another method.

    Parameters
    ----------
    predictor
        The result of `cf.tl.fit_perturbation`, or the folder in which it was saved; it must have test conditions.
    candidates
        Perturbations to choose from; by default all perturbed genes, alone and in pairs. Test conditions that are not
        among them are left out.
    most
        Count hits among the first 1 to `most` candidates.
    by
        Measure by which candidates are ordered.
    own_genes
        Also compare the perturbed genes of the candidates, which gives the answer away.

    Returns
    -------
    DataFrame, a row for each predictor (``network``, ``additive``, ``gene effects``, `predictor.chosen`, ``chance``)
    and ``k``: ``correct``, the share of test conditions found among the first `k` candidates; ``relevant``, the share
    for which one of the first `k` candidates has a gene in common; ``n_targets``, ``n_candidates``. Nothing is written.

    Raises
    ------
    InputError
        No test condition is among the candidates, or too few genes are left without those of the candidates.

    Examples
    --------
    >>> hits = cf.tl.evaluate_perturbation_ranking(predictor)
    >>> hits.pivot(index="k", columns="predictor", values="correct").head(3)
    """
    require_distance(by)
    predictor = resolve_fitted(predictor, PerturbationPredictor, "cf.tl.fit_perturbation")
    conditions = candidate_conditions(predictor, candidates)
    targets = [condition for condition in predictor.split.test if condition in set(conditions)]
    if not targets:
        raise InputError("No test condition is among the candidates.")
    used = predictor.others_than(set() if own_genes else {gene for condition in conditions for gene in condition})
    if used.sum() < MIN_GENES:
        raise InputError(
            f"Without the candidates' own genes {int(used.sum())} genes are left to compare; {MIN_GENES} are needed. "
            "Pass fewer candidates."
        )
    observed = predictor.profiles.changes(tuple(targets))[:, used]
    methods = dict.fromkeys((NETWORK, ADDITIVE, GENE_EFFECTS, predictor.chosen))
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
