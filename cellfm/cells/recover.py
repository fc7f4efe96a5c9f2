"""Recover counts from normalised values: find the unit of each cell of which every value is a whole multiple.

A stored value is known to within its rounding, so each value `x` that is `n` counts puts the unit between
``(x - error) / n`` and ``(x + error) / n``. Starting from the smallest value, these ranges are intersected, small
counts first, because they alone tell `n` while the unit is not yet known well. An empty intersection proves that the
values are no counts; one that is left proves little for few values and much for many, which is measured in bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

BASES = (1.0, float(np.log(2)), float(np.log(10)), None)
"""Natural logarithms of the bases that are tried first: e, 2, 10; None for values without a logarithm."""
SMALLEST_COUNTS = 5
"""The smallest value of a cell may be this many counts."""
ENOUGH_BITS = 16.0
"""Evidence that is enough for a cell: one in 65,536 by chance."""
ENOUGH_TOGETHER = 30.0
"""Evidence that is enough for a whole matrix."""
_ENOUGH_CELLS = 10
"""In so many cells the smallest value is not that of a count in all of them by chance."""
_TELLING = 0.25  # counts: a value known worse than this does not tell which count it is
_STEPS = 8
_BINS = 64
_LARGEST_LOGARITHM = 25.0


@dataclass(frozen=True)
class Transform:
    """The transformation of `n` counts: the logarithm of ``unit * n + pseudocount``, or that sum itself."""

    log: float | None
    """Natural logarithm of the base; None without a logarithm."""
    zero: float = 0.0
    """The value of zero counts: 0 for log1p, the logarithm of the pseudocount for others."""
    undone: bool = False
    """Whether a logarithm was taken and undone again, which multiplies the rounding of floating point."""

    def __str__(self) -> str:
        if self.log is None:
            return "no logarithm" + (f", with {self.zero:.6g} added" if self.zero else "")
        base = "" if self.log == 1.0 else f" to base {np.exp(self.log):.6g}"
        if not self.zero:
            return f"log1p{base}"
        return f"logarithms{base} of values plus {np.exp(self.zero * self.log):.6g}"


@dataclass(frozen=True)
class Precision:
    """The precision of stored values."""

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
    """(n_cells,) float64: the strength of the evidence; 0 if the cell does not fit or is empty."""
    unit: np.ndarray
    """(n_cells,) float64: normalised value of one count; NaN for empty cells."""
    n_loose: int
    """Values that may be off by a count or more, because they are stored too imprecisely."""


def stored_precision(values: np.ndarray) -> Precision:
    """Whether values were rounded to a few decimals, and to what type."""
    with np.errstate(over="ignore"):
        half = values.dtype == np.float16 or bool((values.astype(np.float16) == values).all())
    ulp = 2.0**-11 if half else 2.0**-24
    wide = values.astype(np.float64)
    return Precision(_step(wide, 1.01 * ulp * np.abs(wide), 1), 4 * ulp)


def step_before_logarithm(linear: np.ndarray) -> float:
    """Half of the last decimal that values had before a logarithm was taken, which was undone; 0 where not rounded."""
    error = _undone_error(linear, 4 * 2.0**-24)
    step = _step(linear, error, 0)
    return step if np.median(error) < 0.1 * step else 0.0


def _step(values: np.ndarray, error: np.ndarray, fewest: int) -> float:
    for decimals in range(fewest, 6):
        if (np.abs(values - np.round(values, decimals)) <= error).all():
            return 0.5 * 10.0**-decimals
    return 0.0


def _undone_error(values: np.ndarray, relative: float) -> np.ndarray:
    """How far values of which the logarithm was taken and undone are off: as the logarithm was, and by taking off 1."""
    return relative * (1 + values) * (1 + np.log1p(values))


def zero_value(values: sp.csr_matrix, n_genes: int) -> float:
    """The value that zero counts have: not 0 where no entry is 0 and the smallest value is the same in all cells, as
    after logarithms with a pseudocount other than 1. Where it is that of a count it differs between cells, unless they
    are few: then a positive one is taken for a count.
    """
    n_cells = values.shape[0]
    stored = int(np.count_nonzero(values.data))
    if not stored:
        return 0.0
    least = float(values.data.min())
    if n_cells < (_ENOUGH_CELLS if least > 0 else 1) or stored < (0.99 if least < 0 else 1.0) * n_cells * n_genes:
        return 0.0
    per_cell = np.minimum.reduceat(values.data, values.indptr[:-1]) if (np.diff(values.indptr) > 0).all() else None
    if per_cell is None or (per_cell > least + _same(least)).mean() > 0.1:
        return 0.0
    return least


def choose_transform(values: sp.csr_matrix, precision: Precision, zero: float = 0.0) -> tuple[Transform, "Recovered"]:
    """The transform under which most of some cells are counts, and what comes out: e, 2 and 10 as bases, no logarithm,
    one that was undone, then any base, which is found from the values.
    """
    largest = float(values.data.max(initial=0)) - zero
    tried: list[tuple[int, float, Transform, Recovered]] = []

    def settled(log: float | None, *, undone: bool = False) -> bool:
        if log is not None and not 0 < largest * log < _LARGEST_LOGARITHM:
            return False
        transform = Transform(log, zero, undone)
        result = recover(values, transform, precision)
        tried.append((int(result.fits.sum()), float(result.bits.sum()), transform, result))
        return bool(result.fits.all() and result.bits.sum() > ENOUGH_BITS * len(result.bits))

    if not (any(settled(log) for log in BASES) or settled(None, undone=True)):
        # That most cells fit by chance is out of the question: a base that has to be found is no better than others.
        any(settled(log) for log in _other_bases(_from_zero(values, zero)[0]))
    _, _, transform, result = max(tried, key=lambda one: one[:2])  # the first of equals
    return transform, result


def recover(values: sp.csr_matrix, transform: Transform, precision: Precision) -> Recovered:
    """Recover counts from values of which none is lower than that of zero counts.

    If a cell does not fit, its smallest value is taken as one count and the rest is rounded.
    """
    zero = transform.zero
    values, bad = _from_zero(values, zero)
    if zero:  # both the value and that of zero are known to within the rounding
        absolute = 2 * precision.step + 2 * precision.relative * abs(zero)
        precision = replace(precision, step=absolute)
    x, error = _linear(values.data.astype(np.float64), transform, precision)
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
    fits[bad], bits[bad] = False, 0.0
    with np.errstate(over="ignore"):  # values that fit no count may be beyond all bounds
        whole = counts.astype(np.float32)
    result = sp.csr_matrix((whole, values.indices, values.indptr), shape=values.shape)
    return Recovered(result, fits, bits, unit, n_loose)


@dataclass(frozen=True)
class _Fit:
    counts: np.ndarray
    loose: np.ndarray
    fits: np.ndarray
    bits: np.ndarray
    unit: np.ndarray


def _linear(values: np.ndarray, transform: Transform, precision: Precision) -> tuple[np.ndarray, np.ndarray]:
    """Values without the logarithm, and the possible error of each."""
    error = precision.step + precision.relative * values
    if transform.undone:
        return values, error + _undone_error(values, precision.relative)
    if transform.log is None:
        return values, error
    x = np.expm1(values * transform.log)
    return x, (1 + x) * np.expm1(error * transform.log) + precision.relative * x


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


def _from_zero(values: sp.csr_matrix, zero: float) -> tuple[sp.csr_matrix, np.ndarray]:
    """How far each value is above that of zero counts, and (n_cells,) bool: cells with values below it."""
    if zero:
        dense = values.toarray().astype(np.float64) - zero
        bad = (dense < -_same(zero)).any(1)
        return sp.csr_matrix(np.where(dense > _same(zero), dense, 0.0)), bad
    values = sp.csr_matrix(values)
    bad = np.zeros(values.shape[0], bool)
    if (values.data <= 0).any():
        rows = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
        bad[rows[values.data < 0]] = True
        values = values.copy()
        values.data[values.data < 0] = 0
        values.eliminate_zeros()
    return values, bad


def _same(zero: float) -> float:
    """Values this close to that of zero counts are zero counts."""
    return 2e-6 * max(1.0, abs(zero))


def _other_bases(values: sp.csr_matrix) -> Iterator[float]:
    """Natural logarithms of bases under which the two smallest values of most cells are one and two counts."""
    rows = [np.unique(values.data[a:b].astype(np.float32)).astype(float) for a, b in _pairs(values.indptr)]
    rows = [row for row in rows if len(row) > 2 and row[1] < 2 * row[0]]
    if not rows:
        return
    first = np.array([row[0] for row in rows])
    log = float(np.median(_log_of(first, np.array([row[1] for row in rows]), np.full(len(rows), 2.0))))
    for most in (8, 64, 512):  # larger counts tell more, once the base is known well enough to tell which they are
        counts = [np.rint(np.expm1(np.minimum(row * log, 600)) / np.expm1(row[0] * log)) for row in rows]
        place = [int(np.flatnonzero(n <= most)[-1]) for n in counts]
        known = np.array([n[i] for n, i in zip(counts, place, strict=True)])
        value = np.array([row[i] for row, i in zip(rows, place, strict=True)])
        telling = known >= 2
        if not telling.any():
            return
        log = float(np.median(_log_of(first[telling], value[telling], known[telling])))
    if not 1e-3 < log < 100:
        return
    base = np.exp(log)
    if base > 1.5 and abs(base - np.rint(base)) < 2e-3 * base:
        yield float(np.log(np.rint(base)))
    yield log


def _log_of(first: np.ndarray, value: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The factor that makes ``expm1(factor * value)`` `counts` times ``expm1(factor * first)``, by bisection."""
    low, high = np.full(len(first), 1e-6) / value, np.full(len(first), 600.0) / value
    for _ in range(100):
        middle = np.sqrt(low * high)
        below = np.expm1(middle * value) < counts * np.expm1(middle * first)
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return middle


def _pairs(indptr: np.ndarray) -> Iterator[tuple[int, int]]:
    yield from zip(indptr[:-1].tolist(), indptr[1:].tolist(), strict=True)


def _spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Indices ``starts[i] : starts[i] + lengths[i]``, one span after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) - np.repeat(ends - lengths, lengths) + np.repeat(starts, lengths)
