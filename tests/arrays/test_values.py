"""Kinds of values are told by the values alone."""

import numpy as np
import pytest

from cellfm.data import describe

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
