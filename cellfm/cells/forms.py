"""Recognise from a sample of cells how counts were transformed: by sums, steps and repeated values, never by names.

`describe` classifies single numbers; this file looks at whole cells. It raises no errors: a form is a description for
messages, and says whether counts can be recovered.
"""

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from cellfm.cells.recover import (
    BASES,
    ENOUGH_TOGETHER,
    Transform,
    choose_transform,
    step_before_logarithm,
    stored_precision,
    zero_value,
)
from cellfm.cells.totals import common_total, is_exact, rounded_total
from cellfm.cells.values import NEAR, Kind, Values, rounded

SAMPLE_CELLS = 192
"""Number of cells that is enough to recognise a form."""
_MIN_CELLS = 3  # fewer say nothing of means and spreads
_MIN_VALUES = 200  # fewer may be all ones by chance
_SOME_CELLS = 20
_OFTEN = 0.05
_FEW = 0.1  # cells that may be no multiples, as in cf.pp.recover_counts
_LARGEST_LOGARITHM = 25.0


def recognise(found: Values, sample: sp.csr_matrix, n_genes: int) -> Values:
    """The same, with the form of the values.

    Parameters
    ----------
    found
        What `describe` says of all values.
    sample
        (n_cells, n_vars): some of the cells.
    n_genes
        Columns that can have entries.
    """
    sample = sp.csr_matrix(sample, dtype=np.float64)
    sample.eliminate_zeros()
    if found.off:
        sample = rounded(sample)
    if not sample.nnz or found.kind in ("not finite", "empty"):
        return found
    full = sample.nnz == sample.shape[0] * n_genes  # no zeros
    if found.kind == "counts":
        return _counts(found, sample, full)
    if found.kind == "negative":
        return _negative(found, sample, n_genes)
    return _fractions(found, sample, n_genes)


def _counts(found: Values, sample: sp.csr_matrix, full: bool) -> Values:
    x = sample.data
    least = x.min()
    if found.example <= 1 + NEAR and (found.boolean or len(x) >= _MIN_VALUES):
        return replace(found, form="binary")
    multiples = not (x % least).any()  # counts that were multiplied do no harm
    # Where no entry of many cells is 0, few can be 1, but for those that were 0.
    ones = full and least == 1 and sample.shape[0] >= _SOME_CELLS and (x == 1).mean() > 0.02
    if len(x) >= _MIN_VALUES and (ones or (full and _piled_up(x, least))):
        return replace(found, form="added", number=float(least))
    if total := rounded_total(sample):
        return replace(found, form="rounded total", number=total)
    if len(x) >= _MIN_VALUES and least > 1 and not multiples and _piled_up(x, least):
        return replace(found, form="no ones", number=float(least))
    return found


def _fractions(found: Values, sample: sp.csr_matrix, n_genes: int) -> Values:
    x = sample.data
    whole = np.abs(x - np.rint(x)) <= NEAR
    if whole.all():
        return replace(found, kind="fractional counts", form="mixed")
    if shifted := _shifted(found, sample, n_genes):
        return shifted
    proven = _multiples(found, sample)
    regained = proven is not None and proven.recoverable
    precision = stored_precision(x)
    if total := common_total(sample, precision.step):
        about = not is_exact(sample)
        return replace(found, kind="normalised", form="total", number=total, about=about, recoverable=regained)
    logs = {str(Transform(log)): log for log in BASES if log is not None and x.max() * log < _LARGEST_LOGARITHM}
    # Multiples of one unit are counts, but not where they were rounded before the logarithm, and so is their unit.
    for at_first in (True, False):
        for words, log in logs.items():
            linear = _with(sample, np.expm1(x * log))
            step = step_before_logarithm(linear.data)
            if bool(step) == at_first and (
                total := common_total(linear, step + np.exp(x * log) * np.expm1(precision.step * log))
            ):
                about = not is_exact(linear)
                found = replace(found, form="log total", words=words, number=total, about=about)
                return replace(found, kind="log-normalised", recoverable=regained and not about)
        if proven and (proven.form or not at_first):
            return proven
    others = {
        "square roots": x**2,
        "inverse hyperbolic sines": np.sinh(np.minimum(x, 25)),
        "Anscombe transforms": (x / 2) ** 2 - 0.375,
        "Freeman-Tukey transforms": ((x**2 - 1) / (2 * np.maximum(x, NEAR))) ** 2,
    }
    for words, linear in others.items():
        if _are_whole(linear):
            return replace(found, kind="normalised", form="transformed", words=f"{words} of counts")
    if common_total(_with(sample, x**2)):
        return replace(found, kind="normalised", form="transformed", words="square roots of normalised counts")
    shares = {words: _share_whole(np.expm1(x * log)) for words, log in logs.items()} | {"": _share_whole(x)}
    best = max(shares, key=lambda name: shares[name])
    if shares[best] > _OFTEN and best:
        return replace(found, kind="log-normalised", form="log of fractions", words=best)
    if shares[""] > _OFTEN or _steps(x):
        return replace(found, kind="fractional counts", form="fractional")
    return found


def _negative(found: Values, sample: sp.csr_matrix, n_genes: int) -> Values:
    x = sample.data
    if (np.abs(x - np.rint(x)) <= NEAR).all():
        return replace(found, form="negative whole")
    if shifted := _shifted(found, sample, n_genes):
        return shifted
    dense = sample[:, np.unique(sample.indices)].toarray()
    if min(dense.shape) < _MIN_CELLS or (dense == 0).mean() > 0.02:
        return found
    of_cells = np.abs(dense.mean(1)) / (dense.std(1) + 1e-12)
    if np.median(of_cells) < 1e-3:
        return replace(found, form="centred log ratios")
    dense = dense[:, dense.std(0) > 1e-6]
    if not dense.size:
        return found
    mean, spread = dense.mean(0), dense.std(0)
    if np.median(np.abs(mean) / spread) > 0.3:
        return found
    repeated = np.median((np.abs(dense - dense.min(0)) < 1e-5).mean(0))  # zeros of a gene stay alike under scaling
    if repeated < 0.1:
        return replace(found, form="residuals")
    return replace(found, form="scaled" if (np.abs(spread - 1) < 0.25).mean() > 0.5 else "centred")


def _multiples(found: Values, sample: sp.csr_matrix, zero: float = 0.0) -> Values | None:
    """The form if the values of each cell are multiples of one unit, so that counts can be recovered."""
    transform, result = choose_transform(sample, stored_precision(sample.data), zero)
    filled = ~np.isnan(result.unit)
    decimal = np.abs(np.log10(result.unit[filled]) % 1.0)
    if (~result.fits).sum() > _FEW * filled.sum():
        return None
    if transform.log is None and (np.minimum(decimal, 1 - decimal) < 1e-5).mean() > 0.5:  # a decimal, not a count
        return None
    if result.bits.sum() < ENOUGH_TOGETHER:  # nothing speaks against it, which is all that few values tell
        return replace(found, recoverable=True) if found.kind == "log-normalised" else None
    kind: Kind = "normalised" if transform.log is None else "log-normalised"
    kind = found.kind if found.kind == "negative" else kind
    return replace(found, kind=kind, form="multiples", words=str(transform), recoverable=True)


def _shifted(found: Values, sample: sp.csr_matrix, n_genes: int) -> Values | None:
    """The form if a pseudocount has turned zero counts into a value other than 0."""
    least = zero_value(sample, n_genes)
    if not least:
        return None
    x = sample.data - least
    if (np.abs(x - np.rint(x)) <= NEAR).all():
        return replace(found, form="added", number=least, kind="fractional counts" if least > 0 else found.kind)
    return _multiples(found, sample, least)


def _steps(x: np.ndarray) -> bool:
    """Whether there are more values just below 1 or 2 than just above, or next to whole numbers than elsewhere: this
    happens if parts of counts were removed or distributed; other values show no preference for whole numbers.
    """
    if len(np.unique(x[(x > 0.5) & (x < 4.5)].round(5))) < 100:  # one decimal, say, of which whole numbers are many
        return False
    for n in (1, 2):
        below, above = ((x > n - 0.1) & (x <= n + NEAR)).sum(), ((x > n + NEAR) & (x < n + 0.1)).sum()
        if below + above >= 50 and below > 1.5 * above and below - above > 5 * np.sqrt(below + above):
            return True
    small = x[(x > 0.5) & (x < 20.5)]
    return len(small) >= _MIN_VALUES and bool((np.abs(small - np.rint(small)) < 0.05).mean() > 0.3)


def _share_whole(x: np.ndarray) -> float:
    """Share of small values that are whole, beyond what rounding to decimals does; floats make large ones whole."""
    small = x[(x > 0.5) & (x < 4.5)]
    if len(small) < 20:
        return 0.0
    return float((np.abs(small - np.rint(small)) <= NEAR).mean()) - 6 / len(np.unique(small.round(5)))


def _are_whole(x: np.ndarray) -> bool:
    small = x[np.abs(x) < 1000]
    return len(small) >= 20 and bool((np.abs(small - np.rint(small)) <= 2 * NEAR).all())


def _piled_up(x: np.ndarray, least: float) -> bool:
    """Whether the smallest whole number is a frequent one, and more frequent than the next."""
    at, after = (x == least).sum(), (x == least + 1).sum()
    return bool(at >= 2 * _OFTEN * len(x) and at > 1.2 * after)


def _with(sample: sp.csr_matrix, data: np.ndarray) -> sp.csr_matrix:
    return sp.csr_matrix((data, sample.indices, sample.indptr), shape=sample.shape)
