"""Numbers are taken from any storage; what holds none is named, with an example and its place."""

import re
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellfm.cells.numbers import as_numbers
from cellfm.errors import InputError

COUNTS = np.random.default_rng(0).poisson(1.0, (7, 5))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint64, np.float16, np.float32, np.longdouble, object])
def test_numbers_of_any_dtype_stay_what_they_are(dtype: type):
    found = as_numbers(COUNTS.astype(dtype), "adata.X")
    assert found.dtype.kind in "biuf"
    np.testing.assert_array_equal(found.astype(np.float64), COUNTS.astype(dtype).astype(np.float64))


@pytest.mark.parametrize("make", [np.float32, np.int64, np.bool_, float, int, lambda x: pd.Series([x])[0]])
def test_objects_that_are_numbers_are_converted(make: type):
    values = np.array([[make(x) for x in row] for row in COUNTS], object)
    found = as_numbers(values, "adata.X")
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, values.astype(float))


def test_objects_in_sparse_matrices_are_converted():
    values = sp.csr_matrix(COUNTS)
    values.data = values.data.astype(object)
    np.testing.assert_array_equal(as_numbers(values, "adata.X").toarray(), COUNTS)


@pytest.mark.parametrize(
    ("other", "shown"),
    [("3", r"'3' of type str"), (None, "None of type NoneType"), (pd.NA, "<NA> of type NAType"), (1j, "1j of type")],
)
def test_other_objects_are_named_with_their_place(other: object, shown: str):
    values = COUNTS.astype(object)
    values[2, 3] = other
    with pytest.raises(InputError, match=rf"adata.X .* dtype is object .* such as {shown}.*row 2, column 3"):
        as_numbers(values, "adata.X")


@pytest.mark.parametrize("other", [COUNTS.astype(str), COUNTS.astype(complex), np.full((7, 5), np.datetime64("now"))])
def test_other_dtypes_are_named(other: np.ndarray):
    with pytest.raises(InputError, match=re.escape(f"than numbers: its dtype is {other.dtype}")):
        as_numbers(other, "adata.layers['a']")


def test_not_a_number_is_a_number_here():
    # Which entries are NaN is said by what looks at the values.
    assert np.isnan(as_numbers(np.array([[1, np.nan]], object), "adata.X")).any()
    with pytest.raises(InputError, match="datetime"):
        as_numbers(np.array([[1, datetime(2026, 1, 1)]], object), "adata.X")


def test_masked_entries_are_refused_and_a_mask_of_nothing_is_none():
    np.testing.assert_array_equal(as_numbers(np.ma.MaskedArray(COUNTS), "adata.X"), COUNTS)
    with pytest.raises(InputError, match=rf"{(COUNTS > 2).sum()} masked entr.*adata.X.filled\(0\)"):
        as_numbers(np.ma.MaskedArray(COUNTS, mask=COUNTS > 2), "adata.X")
