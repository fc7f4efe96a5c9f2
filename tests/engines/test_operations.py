"""Every operation of the protocol gives in every engine what NumPy gives, and the gradient of finite differences."""

import ast
import inspect

import numpy as np
import pytest
from numpy_operations import NumpyOperations
from on_engine import differences, differentiate, run

from cellfm.engines import Operations

INDEX = np.array([[2, 0, 2], [1, 1, 3]], np.int32)
SEGMENT = np.array([1, 1, 0, 3], np.int32)  # nothing is summed into row 2


def results(xp, p, index, segment):
    """Each operation once, and those with cases of their own for each, by name."""
    return {
        "linear": xp.linear(p["x"], p["w"]),
        "linear of rows": xp.linear(p["rows"], p["w"]),
        "product": xp.product(p["x"], p["w"].T),
        "matmul": xp.matmul(p["a"], p["b"]),
        "matmul of rows": xp.matmul(p["rows"], p["w"].T),
        "matmul transposed": xp.matmul(p["a"], p["c"], transpose_a=True),
        "matmul of rows transposed": xp.matmul(p["rows"], p["positive"], transpose_a=True),
        "matmul of four axes": xp.matmul(p["x"].reshape((2, 1, 3, 4)), p["a"].reshape((2, 1, 4, 3))),
        "take": xp.take(p["rows"], index),
        "take of many axes": xp.take(p["a"], index[:, 0] - 1),
        "weighted_rows": xp.weighted_rows(p["rows"], index, p["x"][..., :2]),
        "pick": xp.pick(p["rows"], index[0, 0] - segment),
        "segment_sum": xp.segment_sum(p["rows"], segment, p["positive"]),
        "segment_sum of many axes": xp.segment_sum(p["a"], segment[:2] - 1, p["gamma"]),
        "mean_rows": xp.mean_rows(p["rows"]),
        "concat": xp.concat((p["x"], p["x"] * 2), 1),
        "stack": xp.stack((p["x"] * 3, p["x"] * 2), -1),
        "stack of scalars": xp.stack((p["x"].sum(), p["w"].sum()), 0),
        "split": xp.split(p["x"], 2)[1],
        "broadcast_to": xp.broadcast_to(p["gamma"][None], (3, 4)),
        "arange": xp.float32(xp.arange(4)) * p["gamma"],
        "eye": xp.eye(4) * p["rows"],
        "zeros_like": xp.zeros_like(p["x"]) + p["x"],
        "float32": xp.float32(index > 1) * p["x"].sum(),
        "abs": xp.abs(p["x"]),
        "exp": xp.exp(p["x"]),
        "log": xp.log(p["positive"]),
        "maximum": xp.maximum(p["rows"], p["gamma"]),
        "maximum of a number": xp.maximum(p["rows"], 0.3),
        "minimum": xp.minimum(p["rows"], p["gamma"]),
        "minimum of a number": xp.minimum(p["rows"], 0.3),
        "rsqrt": xp.rsqrt(p["positive"]),
        "sign": xp.sign(p["x"]) * p["x"],
        "tanh": xp.tanh(p["x"]),
        "relu": xp.relu(p["x"]),
        "leaky_relu": xp.leaky_relu(p["x"], 0.2),
        "silu": xp.silu(p["x"]),
        "sigmoid": xp.sigmoid(p["x"]),
        "softmax": xp.softmax(p["x"]),
        "logsumexp": xp.logsumexp(p["x"]),
        "layer_norm": xp.layer_norm(p["x"], p["gamma"], p["beta"]),
        "layer_norm of rows": xp.layer_norm(p["rows"], p["gamma"], p["beta"]),
        "rms_norm": xp.rms_norm(p["x"]),
        "dropout": xp.dropout(p["x"], segment[0] + 5, -1000000000, 1.3),
        "layers": xp.layers(double, p["x"], p["layers"], [1.0, 2.0]),
        "stacked": xp.layers(double, p["x"], xp.stacked(p["layers"]), [1.0, 2.0]),
    }


APART = {"stop_gradient", "reverse_gradient"}
"""Those whose gradient is not that of their value; tested by themselves."""
DRAWN = {"x": (2, 3, 4), "rows": (4, 4), "w": (5, 4), "a": (2, 4, 3), "b": (2, 3, 4), "c": (2, 4, 5)}


def double(x, own, factor):
    return x * own["scale"] * factor + own["shift"]


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    drawn = {name: generator.standard_normal(shape) for name, shape in DRAWN.items()}
    drawn["positive"] = generator.random((4, 5)) + 0.5
    drawn |= {"gamma": generator.standard_normal(4), "beta": generator.standard_normal(4)}
    for i in range(2):
        drawn |= {f"layers.{i}.scale": generator.standard_normal(4), f"layers.{i}.shift": generator.standard_normal(4)}
    return {name: array.astype(np.float32) for name, array in drawn.items()}


def nested(flat):
    from cellfm.nn.weights import nest

    return nest(flat)


def in_numpy(weights):
    return results(NumpyOperations(), nested(weights), INDEX, SEGMENT)


@pytest.fixture(scope="module")
def cotangents(weights) -> dict[str, np.ndarray]:
    """What the results are weighed with to give one number."""
    generator = np.random.default_rng(1)
    return {name: generator.standard_normal(np.shape(found)) for name, found in in_numpy(weights).items()}


def test_every_operation_is_tested():
    names = {name for name, value in vars(Operations).items() if inspect.isfunction(value) and name[0] != "_"}
    tree = ast.parse(inspect.getsource(results))
    called = {node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "attr")}
    assert names <= called | APART
    assert names == {name for name in dir(NumpyOperations) if name[0] != "_"}


def test_values_are_those_of_numpy(engine, weights):
    def values(xp, p, index, segment):
        found = results(xp, p, index, segment)
        return [found[name] for name in NAMES]

    expected = in_numpy({name: array.astype(float) for name, array in weights.items()})
    for name, found in zip(NAMES, run(engine, values, weights, INDEX, SEGMENT), strict=True):
        assert found.shape == np.shape(expected[name]), name
        np.testing.assert_allclose(found, expected[name], atol=3e-6, rtol=3e-6, err_msg=name)


NAMES = [
    node.value
    for node in next(n for n in ast.walk(ast.parse(inspect.getsource(results))) if isinstance(n, ast.Dict)).keys
]


def test_gradients_are_those_of_finite_differences(engine, weights, cotangents):
    weighs = [cotangents[name].astype(np.float32) for name in NAMES]

    def loss(xp, p, arrays, keys):
        found = results(xp, p, arrays[0], arrays[1])
        total = p["gamma"].sum() * 0
        for i in range(len(NAMES)):
            total = total + (found[NAMES[i]] * arrays[2 + i]).sum()
        return total, total.reshape((1,))

    def in_float64(moved):
        found = in_numpy(moved)
        return sum((found[name] * weigh).sum() for name, weigh in zip(NAMES, weighs, strict=True))

    expected = differences(in_float64, weights, 1e-6)
    result, gradients = differentiate(engine, loss, weights, (INDEX, SEGMENT, *weighs))
    assert result.loss == pytest.approx(in_float64(weights), rel=1e-5)
    for name, gradient in gradients.items():
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(gradient / scale, expected[name] / scale, atol=1e-5, rtol=0, err_msg=name)
