"""Marker genes of groups of cells: specificity of their scores, and its p-value."""

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.stats import false_discovery_control

_ROUNDING = 1e-9
"""Sums of scores that differ by less count as equal."""


def group_sums(scores: sp.csr_matrix, groups: np.ndarray, n_groups: int) -> np.ndarray:
    """Sum of the scores of each gene over the cells of each group, (n_groups, n_genes)."""
    shape = (n_groups, scores.shape[1])
    place = np.repeat(groups.astype(np.int64) * shape[1], np.diff(scores.indptr)) + scores.indices
    return np.bincount(place, scores.data, n_groups * shape[1]).reshape(shape)


def group_specificity(scores: sp.csr_matrix, groups: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean score in each group, and how much it is above the mean of all other cells, both (n_groups, n_genes)."""
    sizes = np.bincount(groups, minlength=n_groups)[:, None]
    sums = group_sums(scores, groups, n_groups)
    inside = sums / sizes
    outside = (sums.sum(0) - sums) / (len(groups) - sizes)
    return inside, inside - outside


def permutation_p(
    scores: sp.csr_matrix, groups: np.ndarray, n_groups: int, n_permutations: int, random_state: int = 0
) -> np.ndarray:
    """Probability of a specificity as large or larger when the groups are shuffled, (n_groups, n_genes).

    ``(1 + number of shuffles as large) / (1 + number of shuffles)`` (Phipson and Smyth 2010): never 0. Groups keep
    their sizes, so that a larger specificity is a larger sum.
    """
    generator = np.random.default_rng(random_state)
    observed = group_sums(scores, groups, n_groups) - _ROUNDING
    as_large = np.zeros_like(observed)
    for _ in range(n_permutations):
        as_large += group_sums(scores, generator.permutation(groups), n_groups) >= observed
    return (1 + as_large) / (1 + n_permutations)


def adjusted_over_all(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values (Benjamini and Hochberg 1995), in the same shape; NaN for tests that were not made."""
    adjusted = np.full(p.shape, np.nan)
    made = np.isfinite(p)
    if made.any():
        adjusted[made] = false_discovery_control(p[made])
    return adjusted


def is_tested(scores: sp.csr_matrix, min_cells: int) -> np.ndarray:
    """(n_genes,) bool: genes that enough cells express, whatever their groups."""
    return np.bincount(scores.indices, minlength=scores.shape[1]) >= min_cells


def marker_table(
    scores: dict[str, sp.csr_matrix],
    names: np.ndarray,
    groups: np.ndarray,
    group_names: list[str],
    *,
    min_frac: float,
    n_permutations: int,
    random_state: int = 0,
) -> pd.DataFrame:
    """A row for each group and gene that enough of its cells express, the most specific first within a group.

    All pairs of a group and a gene are tested, and p-values adjusted over all of these: the expressed genes of a group
    depend on the groups, so a choice by `min_frac` before the adjustment would give too small p-values.

    Parameters
    ----------
    scores
        By prefix of their columns, (n_cells, n_genes), 0 where a gene is not expressed. Genes are sorted by the first.
    groups
        (n_cells,) group of each cell.
    """
    n_groups, first = len(group_names), next(iter(scores.values()))
    expressed = sp.csr_matrix((np.ones(len(first.data)), first.indices, first.indptr), first.shape)
    n_cells = group_sums(expressed, groups, n_groups).astype(int)
    fraction = n_cells / np.bincount(groups, minlength=n_groups)[:, None]
    columns: dict[str, np.ndarray] = {}
    for prefix, one in scores.items():
        columns[f"{prefix}score"], columns[f"{prefix}specificity"] = group_specificity(one, groups, n_groups)
        p = permutation_p(one, groups, n_groups, n_permutations, random_state)
        columns[f"{prefix}p_value"], columns[f"{prefix}p_adjusted"] = p, adjusted_over_all(p)
    columns |= {"n_cells": n_cells, "fraction": fraction}
    table = pd.DataFrame(
        {"group": np.repeat(np.array(group_names, object), len(names)), "gene": np.tile(names, n_groups)}
        | {name: values.ravel() for name, values in columns.items()}
    )
    table["place"] = np.repeat(np.arange(n_groups), len(names))
    by = next(name for name in columns if name.endswith("specificity"))
    table = table[table["fraction"] >= min_frac].sort_values(["place", by], ascending=[True, False], kind="stable")
    return table.drop(columns="place").reset_index(drop=True)
