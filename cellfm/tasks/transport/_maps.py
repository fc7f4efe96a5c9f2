"""Maps of latent cells from one condition to another, fitted and applied."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from cellfm.errors import InputError
from cellfm.tasks.transport._metrics import mmd
from cellfm.tasks.transport._recipe import Recipe

Method = Literal["cellot", "entropic", "scgen", "identity"]
METHODS: tuple[Method, ...] = ("cellot", "entropic", "scgen", "identity")


@dataclass(frozen=True)
class Map:
    """A fitted map."""

    kind: Method
    arrays: dict[str, np.ndarray]

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """Carry latent cells, (n, d) -> (n, d) float32."""
        if self.kind == "cellot":
            from cellfm.tasks.transport._convex import gradient

            return np.asarray(gradient(self.arrays, z), np.float32)
        if self.kind == "entropic":
            from cellfm.tasks.transport._entropic import entropic_map

            target, potential, epsilon = (self.arrays[name] for name in ("target", "potential", "epsilon"))
            return entropic_map(z, target, potential, float(epsilon[0]))
        return z + self.arrays["shift"] if self.kind == "scgen" else z


@dataclass(frozen=True)
class LatentCells:
    """Cells of one condition in the latent space."""

    fit: np.ndarray
    """(n, d) float32."""
    validation: np.ndarray
    """(k, d) float32."""
    groups: np.ndarray | None
    """(n + k,) str: the group of each, those of fit first."""

    @property
    def all(self) -> np.ndarray:
        """(n + k, d)."""
        return np.concatenate([self.fit, self.validation])


def fit_map(method: Method, source: LatentCells, target: LatentCells, recipe: Recipe) -> tuple[Map, pd.DataFrame]:
    """Learn a map; where there is something to choose, by the `mmd` of validation cells.

    Returns
    -------
    The map, and its history: empty where nothing was chosen.
    """

    def score(moved: np.ndarray) -> float:
        return mmd(moved, target.validation)

    if method == "cellot":
        from cellfm.tasks.transport._cellot import fit_potentials

        found = fit_potentials(source.fit, target.fit, score, source.validation, recipe)
    elif method == "entropic":
        from cellfm.tasks.transport._entropic import fit_entropic

        found = fit_entropic(source.fit, target.fit, score, source.validation)
    else:
        arrays = {"shift": latent_shift(source, target)} if method == "scgen" else {}
        found = arrays, pd.DataFrame()
    return Map(method, found[0]), found[1]


def latent_shift(source: LatentCells, target: LatentCells) -> np.ndarray:
    """The difference of the means, (d,); with groups, the mean over groups that both have, so that each counts as much.

    scGen (Lotfollahi 2019) takes as many cells of each type before the means, which comes to the same.
    """
    x, y = source.all, target.all
    if source.groups is None or target.groups is None:
        return y.mean(0) - x.mean(0)
    both = sorted(set(source.groups) & set(target.groups))
    if not both:
        raise InputError("No group has cells of both conditions in training, so that no shift can be balanced.")
    shifts = [y[target.groups == group].mean(0) - x[source.groups == group].mean(0) for group in both]
    return np.mean(shifts, axis=0)
