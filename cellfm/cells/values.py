"""Classify the numbers of a matrix by their values, never by names."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp

Kind = Literal["counts", "fractional counts", "log-normalised", "normalised", "negative", "not finite", "empty"]
Form = Literal[
    "",
    "binary",
    "added",
    "no ones",
    "rounded total",
    "mixed",
    "fractional",
    "total",
    "log total",
    "multiples",
    "log of fractions",
    "transformed",
    "negative whole",
    "scaled",
    "centred",
    "residuals",
    "centred log ratios",
]
"""The transformation of counts, as `recognise` finds it in whole cells."""

LOG_CEILING = 20.0
"""Fractions below this are used as logarithms: e**20 counts would be half a billion."""
NEAR = 1.01e-3
"""Values this close to whole numbers are these numbers: 1e-3, and the rounding of float32."""


@dataclass(frozen=True)
class Values:
    """The class of some numbers, and a value that shows it."""

    kind: Kind
    example: float
    """A value that is typical of the kind: the fraction, the negative value, the NaN; of counts the largest."""
    off: float = 0.0
    """For counts: largest distance from whole numbers; above 0 they have to be rounded."""

    boolean: bool = False
    """Whether they are of dtype bool."""
    form: Form = ""
    """The transformation of counts; empty if it is not recognised."""
    words: str = ""
    """The transform that was recognised, such as ``"log1p to base 2"``."""
    number: float = 0.0
    """What all cells add up to, or what was added to all values."""
    about: bool = False
    """Whether the cells add up to `number` only to within the rounding of their values to a few decimals."""
    recoverable: bool = False
    """Whether `cf.pp.recover_counts` can probably recover the counts."""

    def __str__(self) -> str:
        usual = _USUAL[self.kind].format(self.example)
        total = f"about {_total_name(self.number, 3)}" if self.about else _total_name(self.number, 6)
        special = {
            "fractional": f"fractions like {self.example:.4g} among values that are otherwise like counts: estimates, "
            "as after the removal of ambient RNA (SoupX, DecontX) or the distribution of ambiguous reads (RSEM, "
            "salmon, alevin, kallisto)",
            "mixed": f"partly whole numbers, and partly fractions like {self.example:.4g}: counts and other values "
            "are mixed",
            "total": f"fractions like {self.example:.4g} that add up to {total} in every cell, as after normalisation",
            "log total": f"values like {self.example:.3g}, {self.words} of values that add up to "
            f"{total} in every cell, as after log-normalisation",
            "multiples": usual.replace(", as", f", multiples of one unit in every cell ({self.words}), as", 1),
            "log of fractions": f"values like {self.example:.3g}, {self.words} of values like counts with fractions, "
            "as after log-normalisation",
            "transformed": f"values like {self.example:.3g}, which are {self.words}",
            "negative whole": f"negative values like {self.example:.3g}, as after scaling or subtraction, though all "
            "are whole numbers",
            "scaled": f"negative values like {self.example:.3g}, as after scaling: the mean of each gene is 0 and its "
            "standard deviation 1 (z-scores)",
            "centred": f"negative values like {self.example:.3g}, as after centring: the mean of each gene is 0",
            "residuals": f"negative values like {self.example:.3g}, as Pearson residuals or those after regression or "
            "batch correction: the mean of each gene is 0",
            "centred log ratios": f"negative values like {self.example:.3g}, as centred log ratios (CLR): the mean of "
            "each cell is 0",
        }
        if self.form == "added" and self.kind != "counts":
            return f"counts with {self.number:.6g} added to each of them"
        if self.form in special:
            return special[self.form]
        if self.kind != "counts":
            return usual
        return f"{usual}{f' to within {self.off:.2g}' if self.off else ''}{_DOUBTS.get(self.form, '')}"


_USUAL: dict[Kind, str] = {
    "counts": "whole numbers",
    "fractional counts": "fractions like {:.4g}",
    "log-normalised": "values like {:.3g}, as after log-normalisation",
    "normalised": "fractions like {:.4g}, as after normalisation",
    "negative": "negative values like {:.3g}, as after scaling or batch correction",
    "not finite": "values that are not finite ({})",
    "empty": "nothing but zeros",
}
_DOUBTS = {
    "binary": ", but nothing except 0 and 1",
    "added": ", but none is 0",
    "no ones": ", but none is 1",
    "rounded total": ", but their sum is about the same in every cell",
}


def _total_name(total: float, digits: int) -> str:
    name = {1e6: " (TPM or CPM)", 1e4: " (counts per 10,000)", 1.0: " (shares)"}.get(total, "")
    total = float(f"{total:.{digits}g}")
    return f"{total:,.0f}{name}" if total == int(total) else f"{total:,g}{name}"


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
        boolean = values.dtype.kind == "b"
        return Values("negative" if least < 0 else "counts", float(least if least < 0 else most), boolean=boolean)
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
