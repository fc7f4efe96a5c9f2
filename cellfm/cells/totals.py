"""Recognise normalised data from equal sums of all cells, also after rounding."""

import numpy as np
import scipy.sparse as sp

SAME_TOTAL = 2e-3
"""Share of their sum by which cells may differ that add up to the same."""
_MIN_CELLS = 3  # fewer say nothing of sums that are the same in all
_FEW_CELLS = 8  # fewer counts may add up to the same by chance
_MAX_SLACK = 0.15  # of the sum of a cell, by which its values together may be off
_MANY = 0.25  # of the cells
_SMALL = 7
_ROUND = 10 * SAME_TOTAL


def common_total(sample: sp.csr_matrix, error: np.ndarray | float = 0.0) -> float | None:
    """The common sum of all cells; None if sums differ by more than the possible error of the values.

    Parameters
    ----------
    error
        (n_values,) how far off each may be, in the same direction throughout a cell: its ones are all rounded up, say.
    """
    totals = _totals(sample)
    median = float(np.median(totals)) if len(totals) else 0.0
    if len(totals) < _MIN_CELLS or not median > 0:
        return None
    slack = _totals(sp.csr_matrix((np.broadcast_to(error, sample.data.shape), sample.indices, sample.indptr)))
    low, high = (totals - slack).max(), (totals + slack).min()
    if np.median(slack) > _MAX_SLACK * median or low - high > SAME_TOTAL * median:
        return None
    nearest = _power_of_ten(median)
    if low <= nearest <= high or abs(median / nearest - 1) < _ROUND:
        return nearest
    return median


def is_exact(sample: sp.csr_matrix) -> bool:
    """Whether all cells add up to the same, without any rounding."""
    return common_total(sample) is not None


def rounded_total(sample: sp.csr_matrix) -> float | None:
    """What all cells added up to before their values were rounded to whole numbers; None for counts.

    Equal sums to the last count are those of cells that were thinned to one depth, which are counts. Sums that are
    less alike than those of rounded TPM are not enough: there must also be numbers that no multiple is rounded to.
    """
    totals = _totals(sample)
    median = float(np.median(totals)) if len(totals) else 0.0
    if len(totals) < _FEW_CELLS or not np.ptp(totals) or median < 1e3:
        return None
    nearest = _power_of_ten(median)
    if np.ptp(totals) < 5 * SAME_TOTAL * median:
        return nearest if abs(median / nearest - 1) < _ROUND else median
    return common_total(sample, 0.5) if _have_gaps(sample) else None


def _totals(sample: sp.csr_matrix) -> np.ndarray:
    """Sums of the cells that are not empty."""
    return np.asarray(sample.sum(1)).ravel()[np.diff(sample.indptr) > 0]


def _power_of_ten(x: float) -> float:
    return float(10.0 ** np.rint(np.log10(x)))


def _have_gaps(sample: sp.csr_matrix) -> bool:
    """Whether in many cells a small number is missing or much rarer than the next, as multiples of 1.4 are rounded."""
    rows = np.repeat(np.arange(sample.shape[0]), np.diff(sample.indptr))
    frequency = np.zeros((sample.shape[0], _SMALL + 1))
    np.add.at(frequency, (rows, np.minimum(sample.data, _SMALL).astype(int)), 1)
    rarer = (frequency[:, 2:_SMALL] > 2 * frequency[:, 1 : _SMALL - 1] + 5).any(1)
    return bool((rarer | (frequency[:, 1] == 0))[np.diff(sample.indptr) > 0].mean() > _MANY)
