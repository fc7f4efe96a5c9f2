"""Convert stored matrices to numbers: objects are converted, other types raise an error that names them."""

import numbers
from typing import Any

import numpy as np
import scipy.sparse as sp
from pandas.api.types import infer_dtype

from cellfm.errors import InputError

NUMERIC = "biuf"
"""Codes of dtypes that are used unchanged: booleans, integers, unsigned integers, floats."""
_NUMBERS = ("integer", "floating", "mixed-integer-float", "boolean")
"""Names that pandas gives to objects that are all numbers."""


def as_numbers(values: Any, name: str) -> Any:
    """The matrix with real numbers: NumPy or SciPy, with float16 and long floats in a type that SciPy can use.

    Parameters
    ----------
    values
        A NumPy array or SciPy matrix of any type.
    name
        Name of the matrix in messages.

    Raises
    ------
    InputError
        Text, dates, complex numbers, missing objects or masked entries; the message gives an example with its position.
    """
    if isinstance(values, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(values)
        if masked.any():
            raise InputError(
                f"{name} is a masked array with {int(masked.sum()):,} masked entries, which have no value. Fill them, "
                f"for instance by {name} = {name}.filled(0), or pass layer= with another matrix."
            )
        values = values.data
    elif isinstance(values, np.matrix):
        values = np.asarray(values)
    dtype = values.dtype
    if dtype.kind in NUMERIC:
        return _usable(values)
    if dtype.kind == "O":
        return _of_objects(values, name)
    raise InputError(_refusal(name, dtype))


def require_numeric(dtype: np.dtype, name: str) -> None:
    """Refuse a dataset on disk that does not hold numbers, by its dtype.

    Raises
    ------
    InputError
        The dtype is not numeric.
    """
    if dtype.kind not in NUMERIC:
        raise InputError(_refusal(name, dtype))


def _usable(values: Any) -> Any:
    dtype = values.dtype
    if dtype.kind != "f" or dtype.itemsize in (4, 8):
        return values
    wide = np.float32 if dtype.itemsize < 4 else np.float64
    if sp.issparse(values):  # SciPy cannot convert float16
        return type(values)((values.data.astype(wide), values.indices, values.indptr), shape=values.shape)
    # Dense float16 is converted block by block, so that it takes no more memory than it must.
    return values if dtype == np.float16 else values.astype(wide)


def _of_objects(values: Any, name: str) -> Any:
    flat = values.data if sp.issparse(values) else values.ravel()
    if infer_dtype(flat, skipna=False) not in _NUMBERS:
        # np.bool_ is no numbers.Real; NaN and infinity are numbers, which are named later.
        other = next((i for i, value in enumerate(flat) if not isinstance(value, numbers.Real | np.bool_)), None)
        if other is not None:
            place = "" if sp.issparse(values) else _place(other, values.shape)
            raise InputError(_refusal(name, values.dtype, f"{_shown(flat[other])}{place}"))
    converted = flat.astype(np.float64)
    if not sp.issparse(values):
        return converted.reshape(values.shape)
    return type(values)((converted, values.indices, values.indptr), shape=values.shape)


def _place(i: int, shape: tuple[int, ...]) -> str:
    row, column = np.unravel_index(i, shape)
    return f" (row {int(row):,}, column {int(column):,})"


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:40] + '...'} of type {type(value).__name__}"


def _refusal(name: str, dtype: np.dtype, example: str = "") -> str:
    what = f" and it has entries such as {example}" if example else ""
    convertible = dtype.kind in "OSUT" and not name.startswith("adata.raw")
    convert = "" if not convertible else f"convert it by {name} = {name}.astype('float32'), or "
    return (
        f"{name} contains something other than numbers: its dtype is {dtype}{what}. Expected counts as integers or "
        f"floats: {convert}pass layer= with another matrix."
    )
