"""Entropic optimal transport by ott-jax: a potential of each target cell, and the resulting map of any cell."""

import warnings
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from scipy.special import softmax

from cellfm.errors import InputError, MissingPackageError

EPSILONS = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Strengths of entropy that are tried, relative to the mean squared distance between source and target cells."""
MAX_ITERATIONS = 5000


def require_ott() -> ModuleType:
    """The package ott-jax.

    Raises
    ------
    MissingPackageError
        It is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of jaxopt, which ott-jax imports
            import ott.geometry.pointcloud
            import ott.problems.linear.linear_problem
            import ott.solvers.linear.sinkhorn
    except ImportError as error:
        raise MissingPackageError(
            f"method='entropic' needs ott-jax ({error}). Install it with pip install 'cellfm[perturb]', or use "
            "method='cellot', which needs no extra package."
        ) from None
    return ott


def entropic_map(z: np.ndarray, target: np.ndarray, potential: np.ndarray, epsilon: float) -> np.ndarray:
    """Map cells, new or not, to the mean target cell of their plan (Pooladian 2021, eq. 3).

    Parameters
    ----------
    z, target
        (n, d) cells to map, and (m, d) target cells of the fit.
    potential
        (m,) dual potential of the target cells.
    """
    weight = softmax((potential - cdist(z, target, "sqeuclidean")) / epsilon, axis=1)  # (n, m)
    return (weight @ target).astype(np.float32)


def fit_entropic(
    source: np.ndarray, target: np.ndarray, score: Callable[[np.ndarray], float], held_out: np.ndarray
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Sinkhorn's potentials (Cuturi 2013) at the strength of entropy with the lowest score.

    Parameters
    ----------
    source, target
        (n, d) and (m, d) cells, in no common order.
    score
        Distance of mapped cells from target cells; lower is better.
    held_out
        (k, d) source cells for `score`.

    Returns
    -------
    ``target``, ``potential`` and ``epsilon``, and a row for each strength. Runs that did not converge are ignored.

    Raises
    ------
    MissingPackageError
        ott-jax is not installed.
    InputError
        No run converged.
    """
    ott = require_ott()
    rows, best, kept = [], np.inf, None
    for step, relative in enumerate(EPSILONS):
        cloud = ott.geometry.pointcloud.PointCloud(source, target, epsilon=relative, relative_epsilon="mean")
        problem = ott.problems.linear.linear_problem.LinearProblem(cloud)
        found = ott.solvers.linear.sinkhorn.Sinkhorn(max_iterations=MAX_ITERATIONS)(problem)
        potential, epsilon = np.asarray(found.g), float(cloud.epsilon)
        value = score(entropic_map(held_out, target, potential, epsilon)) if bool(found.converged) else np.nan
        rows.append({"step": step, "epsilon": relative, "validation": value})
        if value < best:
            best, kept = value, {"target": target, "potential": potential, "epsilon": np.array([epsilon])}
    if kept is None:
        raise InputError("Sinkhorn's iterations converged for no strength of the entropy. Use method='cellot'.")
    return kept, pd.DataFrame(rows)
