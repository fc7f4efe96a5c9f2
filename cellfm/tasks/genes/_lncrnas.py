"""Genes that mark a group of cells by what CLS reads: specificity, and how likely it is by chance."""

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.stats import false_discovery_control


def group_specificity(scores: sp.csr_matrix, groups: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean score in each group, and how much it is above the mean of all other cells, both (n_groups, n_genes)."""
    sizes = np.bincount(groups, minlength=n_groups)
    one_hot = sp.csr_matrix((np.ones(len(groups)), (groups, np.arange(len(groups)))), (n_groups, len(groups)))
    sums = np.asarray((one_hot @ scores).todense())
    inside = sums / sizes[:, None]
    outside = (sums.sum(0) - sums) / (len(groups) - sizes)[:, None]
    return inside, inside - outside


def permutation_p(
    scores: sp.csr_matrix, groups: np.ndarray, n_groups: int, n_permutations: int, random_state: int = 0
) -> np.ndarray:
    """Probability of a specificity as large or larger when the groups are shuffled, (n_groups, n_genes).

    ``(1 + number of shuffles as large) / (1 + number of shuffles)`` (Phipson and Smyth 2010): never 0.
    """
    generator = np.random.default_rng(random_state)
    observed = group_specificity(scores, groups, n_groups)[1] - 1e-12
    as_large = np.zeros_like(observed)
    for _ in range(n_permutations):
        as_large += group_specificity(scores, generator.permutation(groups), n_groups)[1] >= observed
    return (1 + as_large) / (1 + n_permutations)


def marker_table(
    scores: sp.csr_matrix,
    names: np.ndarray,
    groups: np.ndarray,
    group_names: list[str],
    *,
    min_cells: int,
    min_frac: float,
    n_permutations: int,
    random_state: int = 0,
) -> pd.DataFrame:
    """A row for each group and gene that enough of its cells express, the most specific first within a group.

    All pairs of a group and a gene that `min_cells` cells express are tested, and p-values adjusted over all of these:
    what a group expresses depends on the groups, so a choice by `min_frac` before the adjustment would flatter.

    Parameters
    ----------
    scores
        (n_cells, n_genes) 0 where a gene is not expressed.
    groups
        (n_cells,) group of each cell.
    """
    n_groups = len(group_names)
    tested = np.bincount(scores.indices, minlength=scores.shape[1]) >= min_cells
    scores, names = scores[:, tested], names[tested]
    mean, specificity = group_specificity(scores, groups, n_groups)
    expressed = sp.csr_matrix((np.ones(len(scores.data)), scores.indices, scores.indptr), scores.shape)
    fraction = group_specificity(expressed, groups, n_groups)[0]
    n_cells = np.rint(fraction * np.bincount(groups, minlength=n_groups)[:, None]).astype(int)
    p = permutation_p(scores, groups, n_groups, n_permutations, random_state)
    adjusted = false_discovery_control(p.ravel()).reshape(p.shape) if p.size else p
    tables = []
    for i, group in enumerate(group_names):
        kept = np.flatnonzero(fraction[i] >= min_frac)
        kept = kept[np.argsort(-specificity[i, kept], kind="stable")]
        tables.append(
            pd.DataFrame(
                {
                    "group": group,
                    "gene": names[kept],
                    "score": mean[i, kept],
                    "specificity": specificity[i, kept],
                    "n_cells": n_cells[i, kept],
                    "fraction": fraction[i, kept],
                    "p_value": p[i, kept],
                    "p_adjusted": adjusted[i, kept],
                }
            )
        )
    return pd.concat(tables, ignore_index=True)
