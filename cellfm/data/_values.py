"""What kind of numbers a matrix holds, told by the values, never by names."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp

Kind = Literal["counts", "log-normalised", "normalised", "negative", "not finite", "empty"]

LOG_CEILING = 20.0
"""Fractions below this are taken for logarithms: e**20 counts would be half a billion."""
NEAR = 1.01e-3
"""Values this close to whole numbers are these numbers: 1e-3, and the rounding of float32."""


@dataclass(frozen=True)
class Values:
    """The kind of some numbers and the value that shows it."""

    kind: Kind
    example: float
    """A value that is typical of the kind: the fraction, the negative value, the NaN; of counts the largest."""
    off: float = 0.0
    """Of counts: how far from whole numbers the values are at most; above 0 they are to be rounded."""

    def __str__(self) -> str:
        return {
            "counts": f"whole numbers to within {self.off:.2g}" if self.off else "whole numbers",
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
    least, most = values.min(), values.max()
    if values.dtype.kind != "f":
        return Values("negative" if least < 0 else "counts", float(least if least < 0 else most))
    whole = np.rint(values)
    fractions = values[values != whole]
    off = float(np.abs(fractions - np.rint(fractions)).max(initial=0))
    if least < -NEAR or (least < 0 and off > NEAR):
        return Values("negative", float(least))
    if off <= NEAR and most > 1 - NEAR:
        return Values("counts", float(most), off)
    typical = float(np.partition(fractions, fractions.size // 2)[fractions.size // 2])
    return Values("log-normalised" if most < LOG_CEILING else "normalised", typical)


def rounded(block: sp.csr_matrix) -> sp.csr_matrix:
    """The nearest whole numbers, without zeros."""
    whole = sp.csr_matrix((np.rint(block.data), block.indices, block.indptr), shape=block.shape, copy=True)
    whole.eliminate_zeros()
    return whole
