"""Check arguments of tools by their names and types before any work: numbers, and lists of names."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from functools import wraps
from inspect import BoundArguments, Parameter, signature
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_args, get_origin

import numpy as np

from cellfm.errors import InputError, InputTypeError

P = ParamSpec("P")
Result = TypeVar("Result")
Check = Callable[[str, Any], Any]

_CALL: ContextVar[tuple[Callable[..., Any], BoundArguments, frozenset[str]] | None] = ContextVar("call", default=None)
_NOT_RECORDED = {"copy", "modality", "overwrite"}
_LARGEST_SEED = 2**32 - 1
"""NumPy, scanpy and scikit-learn take no larger ones."""
_LEAST: dict[str, int | None] = {
    "attention_layer": None,
    "min_genes": 0,
    "min_known_genes": 0,
    "module": 0,
    "n_deletions": 0,
    "n_folds": 2,
    "n_random": 0,
    "random_state": 0,
}
"""Smallest whole numbers, where they are not 1; None for any."""
_SHARES = {"alpha", "confidence_threshold", "mask_ratio", "min_frac", "min_share", "test_fraction"}
_SHARES |= {"validation_fraction"}
_ABOVE_ZERO = {"learning_rate", "power", "resolution", "resolutions"}
_INFINITE = {"distance_threshold"}
_LABELS = {"control", "gene", "group", "reader", "reference", "source", "target"}
"""Values of columns, which are compared as text."""


def checked(tool: Callable[P, Result]) -> Callable[P, Result]:
    """Decorator that checks the arguments of a tool before it begins.

    A parameter of type `int` or `float` must be a number within its range. In place of a list of names, one name is
    one item, and numbers in it become text, as do numbers that are given as the label of a group.

    Raises
    ------
    InputTypeError
        An argument has the wrong type; the message names it.
    InputError
        A number is out of range.

    Examples
    --------
    >>> from collections.abc import Sequence
    >>> from cellfm.io.arguments import checked
    >>> @checked
    ... def tool(genes: Sequence[str], *, batch_size: int | None = None):
    ...     return genes, batch_size
    >>> tool("CD3E", batch_size=np.int64(8))
    (['CD3E'], 8)
    >>> tool("CD3E", batch_size=0)
    Traceback (most recent call last):
    cellfm.errors.InputError: batch_size must be a whole number of 1 or more, or None, not 0.
    """
    known = signature(tool)
    checks = {name: check for name, one in known.parameters.items() if (check := _check_of(one)) is not None}

    @wraps(tool)
    def checking(*args: P.args, **kwargs: P.kwargs) -> Result:
        try:
            bound = known.bind(*args, **kwargs)
        except TypeError:
            return tool(*args, **kwargs)  # Python's own error, which names the tool
        for name, value in bound.arguments.items():
            if name in checks:
                bound.arguments[name] = checks[name](name, value)
        passed = frozenset(name for name, value in bound.arguments.items() if value is not None)
        token = _CALL.set((tool, bound, passed))
        try:
            return tool(*bound.args, **bound.kwargs)
        finally:
            _CALL.reset(token)

    return checking


def passed_arguments() -> frozenset[str]:
    """Names of the arguments that the caller of the running tool passed, other than as None."""
    call = _CALL.get()
    return frozenset() if call is None else call[2]


def current_call() -> dict[str, Any]:
    """The tool that is running and its options, for the record of its run; empty outside of tools.

    Options are numbers, text and lists of these. Paths are left out: they tell of one machine.
    """
    if (call := _CALL.get()) is None:
        return {}
    tool, bound, _ = call
    bound.apply_defaults()
    options: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kinds = get_args(bound.signature.parameters[name].annotation)
        if name in _NOT_RECORDED or Path in kinds:
            continue
        if isinstance(value, list | tuple) and value and all(isinstance(one, str | float | int) for one in value):
            options[name] = np.array(value)
        elif isinstance(value, str | float | int | np.generic):
            options[name] = value
    return {"tool": f"{tool.__module__.split('.')[1]}.{tool.__name__}", "options": options}


def _check_of(parameter: Parameter) -> Check | None:
    kinds = get_args(parameter.annotation) or (parameter.annotation,)
    if get_origin(parameter.annotation) is Sequence:
        kinds = (parameter.annotation,)
    optional = type(None) in kinds
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    check: Check | None = None
    if kinds == (int,):
        check = _whole_number
    elif kinds == (float,):
        check = _number
    elif len(kinds) == 1 and get_origin(kinds[0]) is Sequence:
        check = _numbers if get_args(kinds[0]) == (float,) else _names
    elif kinds == (float, Sequence[float]):
        check = _numbers
    elif kinds == (str,) and parameter.name in _LABELS:
        check = _label
    return _or_none(check) if check is not None and optional else check


def _or_none(check: Check) -> Check:
    def allowing(name: str, value: Any) -> Any:
        if value is None:
            return None
        try:
            return check(name, value)
        except InputError as error:
            raise type(error)(str(error).replace(", not ", ", or None, not ", 1)) from None

    return allowing


def _whole_number(name: str, value: Any) -> int:
    least = _LEAST.get(name, 1)
    expected = "a whole number" if least is None else f"a whole number of {least} or more"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise InputTypeError(f"{name} must be {expected}, not {value!r}.")
    number = int(value)
    if least is not None and number < least:
        raise InputError(f"{name} must be {expected}, not {number}.")
    if name == "random_state" and number > _LARGEST_SEED:
        raise InputError(f"random_state must be at most {_LARGEST_SEED}, not {number}.")
    return number


def _number(name: str, value: Any) -> Any:
    expected, fits = "a number of 0 or more", value >= 0 if _is_real(value) else False
    if name in _SHARES:
        expected, fits = "a number from 0 to 1", fits and value <= 1
    elif name in _ABOVE_ZERO:
        expected, fits = "a number above 0", fits and value > 0
    if not _is_real(value):
        raise InputTypeError(f"{name} must be {expected}, not {value!r}.")
    if not fits or (math.isinf(value) and name not in _INFINITE):
        raise InputError(f"{name} must be {expected}, not {float(value):g}.")
    return value


def _is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _numbers(name: str, value: Any) -> Any:
    return [_number(name, one) for one in (value if _is_list(value) else [value])]


def _names(name: str, value: Any) -> list[str]:
    return [_label(name, one) for one in (value if _is_list(value) else [value])]


def _label(name: str, value: Any) -> str:
    if not isinstance(value, str | bool | np.bool_ | Real) or value != value:
        raise InputTypeError(f"{name} must be text, not {value!r}.")
    return str(value)


def _is_list(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
