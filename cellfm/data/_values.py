"""What kind of numbers a matrix holds, told by the values, never by names."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["counts", "log-normalised", "normalised", "negative", "not finite", "empty"]

LOG_CEILING = 20.0
"""Fractions below this are taken for logarithms: e**20 counts would be half a billion."""


@dataclass(frozen=True)
class Values:
    """The kind of some numbers and the value that shows it."""

    kind: Kind
    example: float
    """A value that is typical of the kind: the fraction, the negative value, the NaN."""

    def __str__(self) -> str:
        return {
            "counts": "whole numbers",
            "log-normalised": f"values like {self.example:.3g}, as after log-normalisation",
            "normalised": f"fractions like {self.example:.4g}, as after normalisation",
            "negative": f"negative values like {self.example:.3g}, as after scaling or batch correction",
            "not finite": f"values that are no finite numbers ({self.example})",
            "empty": "nothing but zeros",
        }[self.kind]


def describe(values: np.ndarray) -> Values:
    """Tell counts from everything else; `values` are the stored numbers in any order, zeros may be left out."""
    values = np.asarray(values)
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        if not finite.all():
            return Values("not finite", float(values[~finite][0]))
    if not values.size or not values.any():
        return Values("empty", 0.0)
    if values.min() < 0:
        return Values("negative", float(values.min()))
    if values.dtype.kind == "f":
        fractions = values[values != np.rint(values)]
        if fractions.size:
            typical = float(np.partition(fractions, fractions.size // 2)[fractions.size // 2])
            return Values("log-normalised" if values.max() < LOG_CEILING else "normalised", typical)
    return Values("counts", float(values.max()))
