"""Errors of the package are also the built-in errors that users catch."""

import inspect

import pytest

import cellfm as cf
from cellfm import errors
from cellfm.engines import DeviceMemoryError
from cellfm.errors import CellFMError

BUILT_IN = {
    "InputError": ValueError,
    "InputTypeError": TypeError,
    "MissingKeyError": KeyError,
    "CheckpointError": ValueError,
    "DownloadError": OSError,
    "MissingPackageError": ImportError,
    "TrainingError": RuntimeError,
}


def test_all_have_one_root_and_the_type_that_users_catch():
    defined = {name for name, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, CellFMError)}
    assert defined == {*BUILT_IN, "CellFMError"}
    for name, built_in in BUILT_IN.items():
        error = getattr(errors, name)("what to do")
        assert isinstance(error, CellFMError)
        assert isinstance(error, built_in)
        assert str(error) == "what to do"
    assert issubclass(DeviceMemoryError, RuntimeError)


def test_wrong_types_and_missing_keys_are_caught_as_such(tiny_adata, tiny_model):
    with pytest.raises(TypeError, match="Expected an AnnData or MuData object, found str"):
        cf.tl.embed("cells.h5ad", tiny_model)
    with pytest.raises(KeyError, match="No layer 'counts'"):
        cf.tl.embed(tiny_adata, tiny_model, layer="counts")
