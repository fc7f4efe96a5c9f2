"""Kinds of values are told by the values alone."""

import numpy as np
import pytest
import scipy.sparse as sp

from cellfm.cells.values import describe, rounded

COUNTS = np.array([0, 1, 3, 200])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float32, np.float64, np.uint32])
def test_whole_numbers_of_any_type_are_counts(dtype: type):
    assert describe(COUNTS.astype(dtype)).kind == "counts"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.log1p(COUNTS / 7.0), "log-normalised"),
        (COUNTS / 7.0, "normalised"),
        (COUNTS - 1.0, "negative"),
        (COUNTS.astype(np.int8) - np.int8(1), "negative"),
        (np.array([1.0, np.nan]), "not finite"),
        (np.array([1.0, -1.0, np.inf]), "not finite"),
        (np.zeros(4), "empty"),
        (np.zeros(0, np.float32), "empty"),
    ],
)
def test_every_kind_is_told(values: np.ndarray, kind: str):
    assert describe(values).kind == kind
    assert describe(values[::-1]).kind == kind


def test_the_example_is_of_that_kind():
    assert np.isnan(describe(np.array([1.0, np.nan])).example)
    assert describe(np.array([2.0, -1.5])).example == -1.5
    assert describe(np.array([2.0, 0.25])).example == 0.25
    assert "-1.5" in str(describe(np.array([2.0, -1.5])))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("noise", [1e-7, 5e-4, 1e-3])
def test_values_close_to_whole_numbers_are_counts_and_how_close_is_said(dtype: type, noise: float):
    values = (np.tile(COUNTS, 100) + noise * np.resize([1, -1, 1], 400)).astype(dtype)
    found = describe(values)
    assert found.kind == "counts"
    assert found.off == pytest.approx(noise, rel=1.1e-2 if dtype == np.float32 else 1e-6, abs=1.1e-5)
    np.testing.assert_array_equal(rounded(sp.csr_matrix(values[None])).toarray()[0], np.tile(COUNTS, 100))


@pytest.mark.parametrize(("noise", "kind"), [(2e-3, "log-normalised"), (-2e-3, "negative")])
def test_values_further_off_are_none(noise: float, kind: str):
    assert describe(np.array([0, 1, 3, 7]) + noise).kind == kind


def test_shares_are_no_counts_though_they_are_close_to_zero():
    assert describe(np.random.default_rng(0).dirichlet(np.ones(20_000))).kind == "log-normalised"
