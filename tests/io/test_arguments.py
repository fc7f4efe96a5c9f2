"""Arguments are checked alike by all tools: by name and type, before anything is done."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import anndata
import numpy as np
import pytest

import cellfm as cf
from cellfm.errors import InputError, InputTypeError
from cellfm.io.arguments import checked

TOOLS = {
    f"{space}.{name}": getattr(getattr(cf, space), name)
    for space in ("pp", "tl", "pl", "get")
    for name in getattr(cf, space).__all__
    if inspect.isfunction(getattr(getattr(cf, space), name))
} | {"train.write_shards": cf.train.write_shards}


def parameters(kind: object) -> Iterator[tuple[str, Callable, str]]:
    """Of all tools, those of one type, or of this type or None."""
    for tool, call in TOOLS.items():
        for parameter in inspect.signature(call).parameters.values():
            of_union = get_origin(parameter.annotation) is not Sequence and get_args(parameter.annotation)
            kinds = set(of_union or [parameter.annotation]) - {type(None)}
            if kinds == {kind}:
                yield tool, call, parameter.name


def called(tool: Callable, **given: Any) -> None:
    """Call a tool without data: an error about the data means that the arguments were not refused."""
    needed = [p.name for p in inspect.signature(tool).parameters.values() if p.default is p.empty]
    tool(**{name: "x" for name in needed if "kwargs" not in name} | given)


def not_refused(kind: object, values: Sequence[object]) -> list[str]:
    """Values that a tool did not refuse by an error that begins with the name of the parameter."""
    offenders = []
    for tool, call, name in parameters(kind):
        for value in values:
            try:
                called(call, **{name: value})
            except InputError as error:
                if not str(error).startswith(f"{name} must be"):
                    offenders.append(f"{tool}({name}={value!r}): {error}")
            else:
                offenders.append(f"{tool}({name}={value!r})")
    return offenders


def test_every_tool_refuses_what_is_no_whole_number():
    assert len(list(parameters(int))) > 80
    assert not not_refused(int, [True, np.bool_(True), 3.0, np.float32(3), float("nan"), "3", [3]])


def test_every_tool_refuses_negative_numbers():
    # Layers may be counted from the last.
    assert not [tool for tool in not_refused(int, [-1]) if "attention_layer" not in tool]


def test_every_tool_refuses_what_is_no_number():
    assert len(list(parameters(float))) > 30
    assert not not_refused(float, [True, "0.5", float("nan"), -float("inf"), -0.1, [0.5]])


def test_every_tool_takes_one_name_as_a_list_of_one():
    lists = list(parameters(Sequence[str]))
    assert len(lists) > 15
    assert not not_refused(Sequence[str], [object(), b"CD3E", {"CD3E": 1}, [None], [float("nan")]])


def test_no_tool_copies_backed_data(cells_file: Path):
    backed = anndata.read_h5ad(cells_file, backed="r")
    copying = {name: call for name, call in TOOLS.items() if "copy" in inspect.signature(call).parameters}
    more = {"tl.annotate": {"reference": backed, "labels_key": "label"}, "tl.rank_lncrnas": {"groupby": "label"}}
    assert len(copying) > 15
    for name, call in copying.items():
        with pytest.raises(InputError, match="backed by .*cells.h5ad"):
            called(call, data=backed, copy=True, **more.get(name, {}))


@checked
def tool(
    *,
    batch_size: int | None = None,
    random_state: int = 0,
    alpha: float = 0.05,
    resolution: float | Sequence[float] = 1.0,
    distance_threshold: float | None = None,
    genes: Sequence[str] | None = (),
    group: str | None = None,
) -> dict[str, Any]:
    return dict(locals())


@pytest.mark.parametrize("value", [8, np.int64(8), np.uint8(8)])
def test_whole_numbers_of_numpy_become_those_of_python(value: Any):
    assert type(tool(batch_size=value)["batch_size"]) is int


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"genes": "CD3E"}, ["CD3E"]),
        ({"genes": np.array(["CD3E", "LYZ"])}, ["CD3E", "LYZ"]),
        ({"genes": (1, True)}, ["1", "True"]),
        ({"genes": None}, None),
        ({"group": 2}, "2"),
        ({"group": np.bool_(False)}, "False"),
        ({"resolution": 2}, [2]),
        ({"resolution": np.array([0.5, 1])}, [0.5, 1]),
        ({"distance_threshold": np.inf}, np.inf),
        ({"alpha": np.float32(0.5)}, 0.5),
    ],
)
def test_arguments_arrive_in_one_form(given: dict[str, Any], expected: Any):
    (name,) = given
    assert tool(**given)[name] == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of 1 or more, or None, not 0."),
        ({"random_state": None}, "random_state must be a whole number of 0 or more, not None."),
        ({"random_state": 2**32}, "random_state must be at most 4294967295"),
        ({"alpha": 1.5}, "alpha must be a number from 0 to 1, not 1.5."),
        ({"resolution": [1.0, 0]}, "resolution must be a number above 0, not 0."),
        ({"resolution": np.inf}, "resolution must be a number above 0, not inf."),
    ],
)
def test_the_message_says_what_was_expected_and_found(given: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        tool(**given)


def test_an_unknown_argument_is_named_with_the_tool():
    with pytest.raises(TypeError, match=r"embed\(\) got an unexpected keyword argument 'batchsize'"):
        cf.tl.embed("x", batchsize=3)


def test_a_wrong_type_is_also_a_type_error():
    with pytest.raises(InputTypeError):
        tool(batch_size="8")
