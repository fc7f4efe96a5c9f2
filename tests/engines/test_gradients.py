"""What is not differentiated as it is computed, what is drawn, and what precision changes."""

import numpy as np
import pytest
from numpy_operations import NumpyOperations
from on_engine import differentiate, run

from cellfm.engines import start_engine
from cellfm.errors import InputError

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((5, 3)).astype(np.float32)
W = GENERATOR.standard_normal((3, 2)).astype(np.float32)
SHAPE = (40, 64, 32)


@pytest.mark.parametrize("scale", [0.0, 0.3, GENERATOR.random((5, 1))], ids=["none", "a number", "for each row"])
def test_only_what_comes_before_a_reversal_gets_the_opposite_gradient(engine, scale):
    """Of ``sum((x W)^2)``: ``2 x W W^T`` of x, and ``2 x^T x W`` of W."""
    scale = np.asarray(scale, np.float32)

    def loss(xp, p, arrays, keys):
        y = xp.matmul(xp.reverse_gradient(p["x"], arrays[0]), p["w"])
        total = (y * y).sum()
        return total, total.reshape((1,))

    result, gradients = differentiate(engine, loss, {"x": X, "w": W}, (scale,))
    assert result.loss == pytest.approx(((X @ W) ** 2).sum(), rel=1e-5), "nothing changes on the way forward"
    np.testing.assert_allclose(gradients["w"], 2 * X.T @ (X @ W), rtol=1e-4)
    np.testing.assert_allclose(gradients["x"], -scale * (2 * X @ W @ W.T), rtol=1e-4, atol=1e-6)


def test_no_gradient_passes_a_stop(engine):
    def loss(xp, p, arrays, keys):
        total = (xp.stop_gradient(p["x"]) * p["x"]).sum()
        return total, total.reshape((1,))

    result, gradients = differentiate(engine, loss, {"x": X})
    assert result.loss == pytest.approx((X * X).sum(), rel=1e-5)
    np.testing.assert_allclose(gradients["x"], X, rtol=1e-5)


def dropped(engine, rate: float, key: int) -> np.ndarray:
    """1 / (1 - rate) where an element is kept, otherwise 0."""

    def ones(xp, p, x, key):
        return xp.dropout(x, key[0], int((rate - 0.5) * 2**32), 1 / (1 - rate))

    return run(engine, ones, {}, np.ones(SHAPE, np.float32), np.array([key], np.int32))


@pytest.mark.parametrize("key", [0, 12345, -(2**31), 2**31 - 1])
def test_dropout_is_the_same_in_every_engine(engine, key):
    expected = NumpyOperations().dropout(np.ones(SHAPE), key, int((0.3 - 0.5) * 2**32), 1 / 0.7)
    np.testing.assert_allclose(dropped(engine, 0.3, key), expected, rtol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.3, 0.9])
def test_the_share_and_the_mean_are_kept(engine, rate):
    x = dropped(engine, rate, 3)
    kept = x > 0
    np.testing.assert_allclose(x[kept], 1 / (1 - rate), rtol=1e-6)
    assert kept.mean() == pytest.approx(1 - rate, abs=5 * np.sqrt(rate * (1 - rate) / x.size))


def test_tokens_and_dimensions_are_dropped_independently():
    operations = NumpyOperations()
    kept, other = (operations.dropout(np.ones(SHAPE), key, int(-0.2 * 2**32), 1) > 0 for key in (7, 8))
    kept = kept.reshape(-1, SHAPE[-1])
    n_rows, n_columns = kept.shape
    spread = np.sqrt(0.3 * 0.7)
    assert kept.mean(1).std() == pytest.approx(spread / np.sqrt(n_columns), rel=0.1)
    assert kept.mean(0).std() == pytest.approx(spread / np.sqrt(n_rows), rel=0.5)
    between = np.corrcoef(kept.T)[np.triu_indices(n_columns, 1)]
    assert between.std() == pytest.approx(1 / np.sqrt(n_rows), rel=0.2)
    tokens = np.corrcoef(kept[:400])[np.triu_indices(400, 1)]
    assert tokens.std() == pytest.approx(1 / np.sqrt(n_columns), rel=0.1)
    assert abs(np.corrcoef(kept.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(kept.size)


def test_gradients_pass_what_dropout_keeps(engine):
    def loss(xp, p, arrays, keys):
        out = xp.dropout(p["x"], arrays[0][0], -1000000000, 1.3)
        return (out * 2).sum(), out.reshape((-1,))

    result, gradients = differentiate(engine, loss, {"x": np.abs(X)}, (np.array([11], np.int32),))
    kept = result.terms.reshape(X.shape) > 0
    assert 0 < kept.mean() < 1
    np.testing.assert_allclose(gradients["x"], 2.6 * kept, rtol=1e-5)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_rounds_products_alone(engine, precision):
    """Their factors are rounded, their sums are not, and what comes out is float32 like everything else."""
    if engine.name == "mindspore" and precision == "bfloat16":
        with pytest.raises(InputError, match="bfloat16"):
            start_engine("mindspore", precision)
        return
    generator = np.random.default_rng(2)
    x, w = (generator.standard_normal(shape).astype(np.float32) for shape in ((7, 5, 24), (10, 24)))

    def products(xp, p, x, w):
        return xp.linear(x, w), xp.product(x, w.T), xp.layer_norm(x, p["gamma"], p["beta"]), xp.matmul(x[0], w.T)

    norm = {"gamma": np.ones(24, np.float32), "beta": np.zeros(24, np.float32)}
    exact = run(engine, products, norm, x, w)
    half = run(start_engine(engine.name, precision), products, norm, x, w)
    assert {array.dtype for array in half} == {np.dtype(np.float32)}
    for found, expected in zip(half[:2], exact[:2], strict=True):
        difference = np.abs(found - expected).max()
        assert 1e-4 < difference < (0.02 if precision == "float16" else 0.15)
    for found, expected in zip(half[2:], exact[2:], strict=True):
        np.testing.assert_array_equal(found, expected)
