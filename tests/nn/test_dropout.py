"""What is dropped follows from the key alone, at the rate asked for, and evenly."""

import mindspore as ms
import numpy as np
import pytest

from cellfm.config import ModelConfig
from cellfm.model._parameters import initial_weights, parameter_shapes
from cellfm.nn import Dropout, build_network, draw_dropout, dropouts, name_parameters

SHAPE = (40, 64, 32)  # (c, s, d)


class Drawn:
    def __init__(self, rate: float) -> None:
        part = Dropout(rate)
        part.set_train(True)
        self.part = part

        def forward(x):
            return part(x)

        self.forward = ms.jit(forward)

    def __call__(self, *seed: int) -> np.ndarray:
        draw_dropout([self.part], seed)
        return self.forward(ms.Tensor(np.ones(SHAPE, np.float32))).asnumpy().copy()


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    return Drawn(0.3)


def test_the_seed_decides_and_nothing_before_it(drawn):
    first, other, again = drawn(1, 5), drawn(1, 6), drawn(1, 5)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_the_rate_is_kept_and_the_mean_too(rate):
    x = Drawn(rate)(3)
    kept = x > 0
    np.testing.assert_allclose(x[kept], 1 / (1 - rate), rtol=1e-6)
    assert kept.mean() == pytest.approx(1 - rate, abs=5 * np.sqrt(rate * (1 - rate) / x.size))


def test_tokens_and_dimensions_are_dropped_independently(drawn):
    kept = (drawn(7) > 0).reshape(-1, SHAPE[-1])
    n_rows, n_columns = kept.shape
    spread = np.sqrt(0.3 * 0.7)
    assert kept.mean(1).std() == pytest.approx(spread / np.sqrt(n_columns), rel=0.1)
    assert kept.mean(0).std() == pytest.approx(spread / np.sqrt(n_rows), rel=0.5)
    between = np.corrcoef(kept.T)[np.triu_indices(n_columns, 1)]
    assert between.std() == pytest.approx(1 / np.sqrt(n_rows), rel=0.2)
    tokens = np.corrcoef(kept[:400])[np.triu_indices(400, 1)]
    assert tokens.std() == pytest.approx(1 / np.sqrt(n_columns), rel=0.1)
    assert abs(np.corrcoef(kept.ravel(), (drawn(8) > 0).ravel())[0, 1]) < 5 / np.sqrt(kept.size)


def test_gradients_pass_what_is_kept(drawn):
    def loss(x):
        return (drawn.part(x) * 2).sum()

    out = drawn(4)
    draw_dropout([drawn.part], (4,))
    gradient = ms.grad(loss)(ms.Tensor(np.ones(SHAPE, np.float32)))
    np.testing.assert_allclose(gradient.asnumpy(), 2 * out, rtol=1e-6)


def test_keys_are_no_weights_and_differ_within_a_network():
    config = ModelConfig(n_layers=3, d_model=16, n_heads=2, n_genes=50, d_value=8)
    network = build_network(config, initial_weights(config), dropout=0.3)
    assert name_parameters(network).keys() == parameter_shapes(config).keys()
    parts = dropouts(network)
    assert len(parts) == 4, "the first layer drops nothing"
    draw_dropout(parts, (0,))
    assert len({int(part.key.asnumpy()) for part in parts}) == 4


def test_nothing_is_dropped_in_evaluation():
    part = Dropout(0.5)
    x = ms.Tensor(np.ones(SHAPE, np.float32))
    assert (part.set_train(False)(x) == x).all()
    assert (Dropout(0.0).set_train(True)(x) == x).all()
