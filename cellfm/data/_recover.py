"""Counts out of normalised values: per cell, the unit of which every value is a whole multiple.

A stored value is known to within its rounding, so each value `x` that is `n` counts puts the unit between
``(x - error) / n`` and ``(x + error) / n``. Starting from the smallest value, these ranges are intersected, small
counts first, because they alone tell `n` while the unit is not yet known well. An empty intersection proves that the
values are no counts; one that is left proves little for few values and much for many, which is measured in bits.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp

Scale = Literal["log", "log2", "log10", "linear"]
SCALES: dict[Scale, float | None] = {"log": 1.0, "log2": float(np.log(2)), "log10": float(np.log(10)), "linear": None}
"""Natural logarithm of the base of log1p; None for values without a logarithm."""
SMALLEST_COUNTS = 5
"""The smallest value of a cell may be this many counts."""
ENOUGH_BITS = 16.0
"""Evidence that settles a cell: chance would do as well in one of 65,536."""
_TELLING = 0.25  # counts: a value known worse than this does not tell which count it is
_STEPS = 8
_BINS = 64
_LARGEST_LOGARITHM = 25.0


@dataclass(frozen=True)
class Precision:
    """How exactly values are stored."""

    step: float
    """Half of the last decimal that is stored; 0 where they are not rounded."""
    relative: float
    """Error relative to the value, from floating point."""


@dataclass(frozen=True)
class Recovered:
    """Counts of some cells."""

    counts: sp.csr_matrix
    """(n_cells, n_vars) float32, whole numbers."""
    fits: np.ndarray
    """(n_cells,) bool: all values are multiples of one unit, within their rounding."""
    bits: np.ndarray
    """(n_cells,) float64: how much that says; 0 where the cell does not fit or is empty."""
    unit: np.ndarray
    """(n_cells,) float64: normalised value of one count; NaN for empty cells."""
    n_loose: int
    """Values that may be off by a count or more, because they are stored too roughly."""


def stored_precision(values: np.ndarray) -> Precision:
    """Whether values were rounded to a few decimals, and to what type."""
    half = values.dtype == np.float16 or bool((values.astype(np.float16) == values).all())
    ulp = 2.0**-11 if half else 2.0**-24
    wide = values.astype(np.float64)
    for decimals in range(1, 6):
        if (np.abs(wide - np.round(wide, decimals)) <= 1.01 * ulp * np.abs(wide)).all():
            return Precision(0.5 * 10.0**-decimals, 4 * ulp)
    return Precision(0.0, 4 * ulp)


def choose_scale(values: sp.csr_matrix, precision: Precision) -> Scale:
    """The logarithm under which most cells are counts, told from a sample of cells."""
    largest = float(values.data.max(initial=0))
    tried: dict[Scale, tuple[int, float]] = {}
    for scale, log in SCALES.items():
        if log is None or largest * log < _LARGEST_LOGARITHM:
            result = recover(values, scale, precision)
            tried[scale] = (int(result.fits.sum()), float(result.bits.sum()))
            if result.fits.all() and result.bits.sum() > ENOUGH_BITS * len(result.bits):
                return scale
    return max(tried, key=lambda scale: tried[scale])  # the first of equals


def recover(values: sp.csr_matrix, scale: Scale, precision: Precision) -> Recovered:
    """Regain counts from values that are 0 or above.

    Where a cell does not fit, its smallest value is taken for one count and the rest rounded.
    """
    values = sp.csr_matrix(values)
    if (values.data == 0).any():
        values = values.copy()
        values.eliminate_zeros()
    x, error = _linear(values.data.astype(np.float64), SCALES[scale], precision)
    lengths = np.diff(values.indptr)
    filled = np.flatnonzero(lengths)
    counts = np.zeros(len(x))
    fits, bits = np.ones(len(lengths), bool), np.zeros(len(lengths))
    unit, loose = np.full(len(lengths), np.nan), np.zeros(len(x), bool)

    left = filled  # cells that do not fit yet
    for smallest in range(1, SMALLEST_COUNTS + 1):
        if not len(left):
            break
        source = _spans(values.indptr[left], lengths[left])
        fit = _fit(x[source], error[source], lengths[left], smallest)
        taken = fit.fits | (smallest == 1)  # what fits nothing keeps its smallest value as one count
        rows = left[taken]
        fits[rows], bits[rows], unit[rows] = fit.fits[taken], fit.bits[taken], fit.unit[taken]
        of_taken = np.repeat(taken, lengths[left])
        counts[source[of_taken]] = fit.counts[of_taken]
        loose[source[of_taken]] = fit.loose[of_taken]
        left = left[~fit.fits]
    n_loose = int((loose & np.repeat(fits, lengths)).sum())
    result = sp.csr_matrix((counts.astype(np.float32), values.indices, values.indptr), shape=values.shape)
    return Recovered(result, fits, bits, unit, n_loose)


@dataclass(frozen=True)
class _Fit:
    counts: np.ndarray
    loose: np.ndarray
    fits: np.ndarray
    bits: np.ndarray
    unit: np.ndarray


def _linear(values: np.ndarray, log: float | None, precision: Precision) -> tuple[np.ndarray, np.ndarray]:
    """Values without the logarithm, and how far off each may be."""
    error = precision.step + precision.relative * values
    if log is None:
        return values, error
    x = np.expm1(values * log)
    return x, (1 + x) * np.expm1(error * log) + precision.relative * x


def _fit(x: np.ndarray, error: np.ndarray, lengths: np.ndarray, smallest: int) -> _Fit:
    """The unit of each cell, if its smallest value is that many counts; cells hold at least one value."""
    starts = np.cumsum(lengths) - lengths
    least = np.minimum.reduceat(x, starts)
    least_error = np.minimum.reduceat(error, starts)  # which grows with the value
    low = np.maximum(least - least_error, 1e-3 * least) / smallest
    high = (least + least_error) / smallest
    fits = np.ones(len(lengths), bool)
    for step in range(_STEPS):
        unit = (low + high) / 2
        spread = (high - low) / (2 * unit)
        per_value = np.repeat(unit, lengths)
        counts = np.maximum(np.rint(x / per_value), 1)
        off = counts * np.repeat(spread, lengths) + error / per_value
        if step == 0:
            first = off  # before any value has narrowed the unit
        telling = off < _TELLING
        new_low = np.maximum(low, np.maximum.reduceat(np.where(telling, (x - error) / counts, -np.inf), starts))
        new_high = np.minimum(high, np.minimum.reduceat(np.where(telling, (x + error) / counts, np.inf), starts))
        fits &= new_low <= new_high
        narrower = fits & ((new_low > low) | (new_high < high))
        if not narrower.any():
            break
        low, high = np.where(narrower, new_low, low), np.where(narrower, new_high, high)
    bits = np.where(fits, _bits(counts, first, lengths, smallest), 0.0)
    return _Fit(counts, off >= 0.5, fits, bits, unit)


def _bits(counts: np.ndarray, off: np.ndarray, lengths: np.ndarray, smallest: int) -> np.ndarray:
    """How unlikely the fit of each cell is by chance: a random value lies within `off` of a whole number in
    ``2 * off`` of all cases. Equal counts tell once, those from `_BINS` - 1 on together once.
    """
    evidence = np.zeros((len(lengths), _BINS))
    says = (off < _TELLING) & (counts != smallest)
    rows = np.repeat(np.arange(len(lengths)), lengths)[says]
    evidence[rows, np.minimum(counts[says], _BINS - 1).astype(np.int64)] = -np.log2(2 * off[says])
    # The choice of the smallest count has its price.
    return np.maximum(evidence.sum(axis=1) - np.log2(SMALLEST_COUNTS), 0.0)


def _spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Indices ``starts[i] : starts[i] + lengths[i]``, one span after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) - np.repeat(ends - lengths, lengths) + np.repeat(starts, lengths)
