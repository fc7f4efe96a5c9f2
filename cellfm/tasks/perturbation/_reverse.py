"""Reverse prediction: rank candidate perturbations by the similarity of their change to a target."""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from math import comb
from typing import Literal

import numpy as np
import pandas as pd

from cellfm.errors import InputError
from cellfm.tasks.perturbation._conditions import Condition
from cellfm.tasks.perturbation._predictor import PerturbationPredictor

MAX_CANDIDATES = 1_000_000
MIN_SHARE = 0.5
"""Minimum share of the perturbations of a cluster that contain the gene after which it is named."""
N_TIMED = 256
"""Number of perturbations for estimating the time of all."""
Distance = Literal["cosine", "euclidean"]


def require_distance(by: str) -> None:
    """Check the measure for comparing candidates.

    Raises
    ------
    InputError
        Neither by cosine nor by Euclidean distance.
    """
    if by not in ("cosine", "euclidean"):
        raise InputError(f"by must be 'cosine' or 'euclidean', not {by!r}.")


def candidate_conditions(predictor: PerturbationPredictor, candidates: Sequence[str] | None) -> list[Condition]:
    """Candidates by name, without repetition; by default all singles and pairs of the perturbed genes.

    Raises
    ------
    InputError
        Names that cannot be read, unknown genes, or more than a million.
    """
    if candidates is not None:
        return list(dict.fromkeys(predictor.conditions(candidates)))
    perturbed = {gene for condition in predictor.profiles.conditions for gene in condition}
    return all_conditions(sorted(perturbed), predictor.changes)


def all_conditions(
    genes: Sequence[str],
    predict: Callable[[list[Condition]], np.ndarray],
    *,
    pairs: bool = True,
    singles: bool = True,
) -> list[Condition]:
    """Every gene alone and every pair, or one of the two.

    Parameters
    ----------
    predict
        Conditions to their changes (n, n_genes); it is timed on some of them where they are too many.

    Raises
    ------
    InputError
        More than a million; the message says how many, and how long and how large their prediction would be.
    """
    genes = sorted(set(genes))
    n = len(genes) * singles + comb(len(genes), 2) * pairs
    alone = [(gene,) for gene in genes] if singles else []
    both = itertools.combinations(genes, 2) if pairs else ()
    if n <= MAX_CANDIDATES:
        return [*alone, *both]
    some: list[Condition] = list(itertools.islice(itertools.chain(alone, both), N_TIMED))
    predict(some)  # compiles
    start = time.perf_counter()
    size = predict(some).nbytes / len(some)
    seconds = (time.perf_counter() - start) / len(some)
    raise InputError(
        f"{len(genes):,} genes are {n:,} perturbations, more than {MAX_CANDIDATES:,}. Judging by {len(some)} of "
        f"them, all would take {n * seconds / 60:,.1f} minutes, and {n * size / 1e9:,.1f} GB. Choose "
        "fewer genes."
    )


def scores_of(target: np.ndarray, changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and Euclidean distance between the change of a target (n_genes,) and of candidates (n, n_genes).

    The cosine of a candidate without any change is 0.
    """
    norms = np.linalg.norm(changes, axis=1) * np.linalg.norm(target)
    cosine = np.where(norms > 0, changes @ target / np.where(norms > 0, norms, 1), 0)
    return cosine, np.linalg.norm(changes - target, axis=1)


def order_of(cosine: np.ndarray, euclidean: np.ndarray, by: Distance) -> np.ndarray:
    """Candidates from the nearest to the farthest, (n,) by number."""
    return np.argsort(-cosine if by == "cosine" else euclidean, kind="stable")


def first_hits(order: np.ndarray, candidates: Sequence[Condition], truth: Condition) -> tuple[int, int]:
    """Ranks, from 1, of the right candidate and of the first that shares a gene with it; past all if none is."""
    right = related = len(order) + 1
    for rank, i in enumerate(order, start=1):
        if set(candidates[i]) & set(truth):
            related = min(related, rank)
            if candidates[i] == truth:
                right = rank
                break
    return right, related


def chance_of_hits(candidates: Sequence[Condition], truth: Condition, k: int) -> tuple[float, float]:
    """Probability that a random order has the right candidate, or one that shares a gene, among its first `k`."""
    n = len(candidates)
    k = min(k, n)
    n_related = sum(bool(set(candidate) & set(truth)) for candidate in candidates)
    correct = k / n if truth in candidates else 0.0
    return correct, 1 - comb(n - n_related, k) / comb(n, k)


def dominant_genes(
    clusters: np.ndarray, conditions: Sequence[Condition], *, min_share: float = MIN_SHARE
) -> pd.DataFrame:
    """The gene that most perturbations of each cluster share: ``cluster``, ``n``, ``gene``, ``share``.

    `clusters` (n,) are numbers from 0. Of genes that are shared equally, the first by name. ``gene`` is empty where
    fewer than `min_share` of the perturbations have it; ``share`` is that of the most frequent gene all the same.
    """
    rows = []
    for cluster in range(int(clusters.max()) + 1):
        members = [conditions[i] for i in np.flatnonzero(clusters == cluster)]
        count = Counter(gene for condition in members for gene in condition)
        gene = min(count, key=lambda name: (-count[name], name))
        share = count[gene] / len(members)
        rows.append((str(cluster), len(members), gene if share >= min_share else "", share))
    return pd.DataFrame(rows, columns=["cluster", "n", "gene", "share"])
