"""Maps of latent cells from one condition to another, fitted and applied."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from cellfm.errors import InputError
from cellfm.tasks.transport._cellot import fit_potentials
from cellfm.tasks.transport._convex import carry
from cellfm.tasks.transport._metrics import mmd
from cellfm.tasks.transport._recipe import Recipe

Method = Literal["cellot", "entropic", "latent_shift", "mean_shift", "scgen", "identity"]
METHODS: tuple[Method, ...] = ("cellot", "entropic", "latent_shift", "mean_shift", "scgen", "identity")
BALANCED: tuple[Method, ...] = ("latent_shift", "scgen")
"""Methods whose shifts are balanced over groups of cells."""


@dataclass(frozen=True)
class Map:
    """A fitted map."""

    kind: Method
    arrays: dict[str, np.ndarray]

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """Map latent cells, (n, d) -> (n, d) float32."""
        if self.kind == "cellot":
            return carry(self.arrays, z)
        if self.kind == "entropic":
            from cellfm.tasks.transport._entropic import entropic_map

            target, potential, epsilon = (self.arrays[name] for name in ("target", "potential", "epsilon"))
            return entropic_map(z, target, potential, float(epsilon[0]))
        return z if self.kind == "identity" else z + self.arrays["shift"]


@dataclass(frozen=True)
class LatentCells:
    """Cells of one condition in the latent space."""

    fit: np.ndarray
    """(n, d) float32."""
    validation: np.ndarray
    """(k, d) float32."""
    groups: np.ndarray | None
    """(n + k,) str: the group of each cell, those of fit first."""

    @property
    def all(self) -> np.ndarray:
        """(n + k, d)."""
        return np.concatenate([self.fit, self.validation])


def fit_map(method: Method, source: LatentCells, target: LatentCells, recipe: Recipe) -> tuple[Map, pd.DataFrame]:
    """Learn a map; choices use the `mmd` of validation cells.

    Returns
    -------
    The map and its history, which is empty if there was nothing to choose.
    """

    def score(moved: np.ndarray) -> float:
        return mmd(moved, target.validation)

    if method == "cellot":
        found = fit_potentials(source.fit, target.fit, score, source.validation, recipe)
    elif method == "entropic":
        from cellfm.tasks.transport._entropic import fit_entropic

        found = fit_entropic(source.fit, target.fit, score, source.validation)
    else:
        shift = {"mean_shift": mean_shift, "latent_shift": balanced_shift, "scgen": balanced_shift}
        arrays = {} if method == "identity" else {"shift": shift[method](source, target)}
        found = arrays, pd.DataFrame()
    return Map(method, found[0]), found[1]


def mean_shift(source: LatentCells, target: LatentCells) -> np.ndarray:
    """The difference of the means over all cells, (d,)."""
    return target.all.mean(0) - source.all.mean(0)


def balanced_shift(source: LatentCells, target: LatentCells) -> np.ndarray:
    """The mean of the differences of means, (d,), over groups that both conditions have, with equal weights.

    scGen (Lotfollahi 2019) samples as many cells of each type before taking means, which is equivalent.

    Raises
    ------
    InputError
        No group has cells of both conditions, or there are no groups.
    """
    x, y = source.all, target.all
    if source.groups is None or target.groups is None:
        raise InputError("A balanced shift needs groups of cells, and there are none.")
    both = sorted(set(source.groups) & set(target.groups))
    if not both:
        raise InputError("No group has cells of both conditions in training, so that no shift can be balanced.")
    shifts = [y[target.groups == group].mean(0) - x[source.groups == group].mean(0) for group in both]
    return np.mean(shifts, axis=0)
