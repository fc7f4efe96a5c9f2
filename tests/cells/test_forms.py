"""What was done to counts is recognised from whole cells, and plain counts raise no doubts."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from cellfm.cells.forms import recognise
from cellfm.cells.values import Values, describe

GENERATOR = np.random.default_rng(0)
N_CELLS, N_GENES = 80, 600
COUNTS = GENERATOR.poisson(GENERATOR.gamma(0.3, 4.0, N_GENES) * GENERATOR.uniform(0.5, 2, (N_CELLS, 1))).astype(float)
DEPTH = COUNTS.sum(1, keepdims=True)
CP10K, CPM = COUNTS / DEPTH * 1e4, COUNTS / DEPTH * 1e6
RATE = COUNTS / GENERATOR.uniform(0.5, 5, N_GENES)
TPM = RATE / RATE.sum(1, keepdims=True) * 1e6
LOG = np.log1p(CP10K)
EXPECTED = DEPTH * COUNTS.sum(0) / COUNTS.sum()
SHARED_OUT = COUNTS + np.where(GENERATOR.random(COUNTS.shape) < 0.03, GENERATOR.random(COUNTS.shape), 0)


def found(values: np.ndarray) -> Values:
    values = np.asarray(values) if values.dtype == bool else values.astype(np.float32)
    result = recognise(describe(values), sp.csr_matrix(values), values.shape[1])
    dense = sp.csr_matrix(values)
    assert recognise(describe(dense.data), dense, values.shape[1]).form == result.form
    return result


@pytest.mark.parametrize(
    ("values", "kind", "form", "recoverable"),
    [
        (COUNTS, "counts", "", False),
        (COUNTS > 0, "counts", "binary", False),
        (np.minimum(COUNTS, 1), "counts", "binary", False),
        (COUNTS + 1, "counts", "added", False),
        ((COUNTS + 1) * (COUNTS > 0), "counts", "no ones", False),
        (COUNTS * 2, "counts", "", False),
        (np.rint(TPM), "counts", "rounded total", False),
        (COUNTS + 0.5, "fractional counts", "added", False),
        (COUNTS * GENERATOR.uniform(0.7, 1, COUNTS.shape), "fractional counts", "fractional", False),
        (np.maximum(COUNTS - GENERATOR.uniform(0, 0.3, N_GENES), 0), "fractional counts", "fractional", False),
        (SHARED_OUT, "fractional counts", "fractional", False),
        (CP10K, "normalised", "total", True),
        (CPM, "normalised", "total", True),
        (COUNTS / DEPTH, "normalised", "total", True),
        (TPM, "normalised", "total", False),
        (RATE / DEPTH * 1e6, "normalised", "", False),
        (LOG, "log-normalised", "multiples", True),
        (LOG[:, ::2], "log-normalised", "multiples", True),
        (np.log2(CPM + 1), "log-normalised", "multiples", True),
        (np.log10(CP10K + 1), "log-normalised", "multiples", True),
        (LOG / np.log(3), "log-normalised", "multiples", True),
        (np.log(CP10K + 0.1), "negative", "multiples", True),
        (np.log2(CPM + 2), "log-normalised", "multiples", True),
        (np.log2(TPM + 1), "log-normalised", "log total", False),
        (np.log2(SHARED_OUT + 1), "log-normalised", "log of fractions", False),
        (np.sqrt(COUNTS), "normalised", "transformed", False),
        (np.sqrt(CP10K), "normalised", "transformed", False),
        (np.arcsinh(COUNTS), "normalised", "transformed", False),
        (2 * np.sqrt(COUNTS + 0.375), "normalised", "transformed", False),
        (COUNTS - 1, "negative", "negative whole", False),
        (np.log1p(COUNTS) - np.log1p(COUNTS).mean(1, keepdims=True), "negative", "centred log ratios", False),
        ((LOG - LOG.mean(0)) / np.maximum(LOG.std(0), 1e-9), "negative", "scaled", False),
        (LOG - LOG.mean(0), "negative", "centred", False),
        ((COUNTS - EXPECTED) / np.sqrt(EXPECTED + EXPECTED**2 / 100 + 1e-9), "negative", "residuals", False),
        (GENERATOR.gamma(1, 1, COUNTS.shape), "log-normalised", "", False),
    ],
)
def test_every_form_is_recognised(values: np.ndarray, kind: str, form: str, recoverable: bool):
    result = found(values)
    assert (result.kind, result.form, result.recoverable) == (kind, form, recoverable)
    assert str(result)


def test_totals_and_what_was_added_are_named():
    assert "1,000,000 (TPM or CPM)" in str(found(TPM))
    assert "10,000 (counts per 10,000)" in str(found(CP10K))
    assert "log1p to base 2 of values that add up to 1,000,000" in str(found(np.log2(TPM + 1)))
    assert "counts with 0.5 added" in str(found(COUNTS + 0.5))
    assert "square roots of counts" in str(found(np.sqrt(COUNTS)))
    assert "SoupX" in str(found(SHARED_OUT))


def test_sums_that_differ_by_rounding_alone_are_the_same():
    """Ones of a cell are all rounded in one direction: sums of 9,868 to 10,110 are 10,000."""
    for decimals in (0, 1, 2, 3):
        values = CP10K.round(decimals)
        spread = np.ptp(values.sum(1))
        about = decimals == 0 or spread > 20
        assert (spread > 100) == (decimals == 0)
        assert found(values).number == 1e4
        if decimals == 0:
            assert "their sum is about the same in every cell" in str(found(values))
        else:
            assert f"add up to {'about ' if about else ''}10,000 (counts per 10,000)" in str(found(values))
        logs = found(np.log1p(values))
        if decimals < 2:
            assert (logs.kind, logs.form, logs.number, logs.recoverable) == ("log-normalised", "log total", 1e4, False)
            expected = f"log1p of values that add up to {'about ' if about else ''}10,000 (counts per 10,000)"
            assert expected in str(logs)
    rough = found(LOG.round(1))
    assert (rough.form, rough.number, rough.about, rough.recoverable) == ("log total", 1e4, True, False)
    median = np.median(DEPTH)
    assert f"add up to about {float(f'{median:.3g}'):,.0f} in" in str(found((COUNTS / DEPTH * median).round(1)))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    depth=st.floats(300, 6000),
    decimals=st.integers(0, 2),
    total=st.sampled_from([1e4, 1e5, 1e6]),
)
def test_rounded_totals_of_cells_of_any_depth_are_recognised(seed: int, depth: float, decimals: int, total: float):
    generator = np.random.default_rng(seed)
    rates = generator.gamma(0.3, 1, 1500)
    rates = rates / rates.sum() * depth * generator.uniform(0.6, 1, (30, 1))
    counts = generator.poisson(rates) + 0.0
    values = (counts / counts.sum(1, keepdims=True) * total).round(decimals)
    assert (found(values).form, found(values).number) == ("rounded total" if decimals == 0 else "total", total)
    assert found(counts).form == ""


def test_a_logarithm_that_was_undone_keeps_counts_recoverable():
    for log, undo in ((np.log1p, np.expm1), (lambda x: np.log2(x + 1), lambda x: np.exp2(x) - 1)):
        values = undo(log(CP10K).astype(np.float32))
        assert (found(values).form, found(values).recoverable) == ("total", True)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    n_cells=st.integers(1, 40),
    n_genes=st.integers(1, 300),
    mean=st.floats(0.01, 50),
    shape=st.floats(0.1, 2),
)
def test_counts_of_any_depth_and_size_raise_no_doubts(seed: int, n_cells: int, n_genes: int, mean: float, shape: float):
    generator = np.random.default_rng(seed)
    rates = generator.gamma(shape, mean / shape, n_genes) * generator.lognormal(0, 0.4, (n_cells, 1))
    counts = generator.poisson(rates).astype(float)
    if counts.max() > 1:
        assert found(counts).form == ""


def test_thinned_and_real_bulk_counts_raise_no_doubts():
    thinned = np.array([GENERATOR.multivariate_hypergeometric(row.astype(int), 200) for row in COUNTS])
    assert found(thinned).form == ""
    about_10k = GENERATOR.binomial((COUNTS * 100).astype(int), 100 / DEPTH)
    assert np.ptp(about_10k.sum(1)) > 100
    assert found(about_10k).form == ""
    assert found(GENERATOR.negative_binomial(5, 0.02, (20, 300)) + 0.0).form == ""


def test_few_ones_are_no_binary_data():
    assert found(np.eye(6)).form == ""
    assert found(np.eye(6) > 0).form == "binary"
