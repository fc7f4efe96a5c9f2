"""Half precision is close to single precision, and recomputation changes nothing but memory."""

import mindspore as ms
import numpy as np
import pytest

from cellfm.config import ModelConfig
from cellfm.data import TokenBatch, chunk_cells
from cellfm.model._parameters import initial_weights
from cellfm.nn import build_network, name_parameters, recompute_layers, set_precision

MODEL = ModelConfig(n_layers=2, d_model=16, n_heads=2, n_genes=100, d_value=8)


@pytest.fixture(scope="module")
def inputs() -> tuple[ms.Tensor, ...]:
    generator = np.random.default_rng(0)
    lengths = np.array([60, 20, 5])
    ids = np.concatenate([generator.permutation(100)[:n] + 1 for n in lengths]).astype(np.int32)
    values = generator.random(lengths.sum(), np.float32) * 5
    chunks = chunk_cells(TokenBatch(np.concatenate(([0], np.cumsum(lengths))), ids, values), np.arange(3))
    visible = chunks.spread(generator.random(len(ids)) > 0.2, 1)
    arrays = (chunks.gene_ids, chunks.values, visible, chunks.mask, chunks.chunk_cell, chunks.cls_row)
    return tuple(map(ms.Tensor, arrays))


def network_of(precision: str = "float32"):
    network = build_network(MODEL, initial_weights(MODEL, random_state=1))
    set_precision(network, precision)
    return network


def test_half_precision_is_close(inputs):
    full, half = (network_of(precision)(*inputs) for precision in ("float32", "float16"))
    for one, other in zip(full, half, strict=True):
        assert other.dtype == ms.float32
        scale = np.abs(one.asnumpy()).max()
        np.testing.assert_allclose(other.asnumpy(), one.asnumpy(), atol=2e-2 * max(1, scale), rtol=0)
    np.testing.assert_allclose(half[0].asnumpy(), full[0].asnumpy(), atol=2e-2, rtol=0)
    assert (half[0].asnumpy() != full[0].asnumpy()).any(), "something was computed in half precision"


def test_single_precision_is_untouched(inputs):
    plain = build_network(MODEL, initial_weights(MODEL, random_state=1))
    for one, other in zip(plain(*inputs), network_of("float32")(*inputs), strict=True):
        np.testing.assert_array_equal(one.asnumpy(), other.asnumpy())


def test_weights_stay_in_single_precision(inputs):
    network = network_of("float16")
    assert {parameter.dtype for parameter in name_parameters(network).values()} == {ms.float32}


def loss_and_gradients(network, inputs) -> tuple[float, list[np.ndarray]]:
    parameters = ms.ParameterTuple(list(name_parameters(network).values()))

    def loss(*arrays):
        _, _, gene_wise, cell_wise = network(*arrays)
        return ((gene_wise - arrays[1]) ** 2 + (cell_wise - arrays[1]) ** 2).mean()

    found, gradients = ms.jit(ms.value_and_grad(loss, None, parameters))(*inputs)
    return float(found), [gradient.asnumpy() for gradient in gradients]


def test_recomputation_leaves_loss_and_gradients(inputs):
    plain, again = network_of(), network_of()
    recompute_layers(again)
    (loss, gradients), (loss_again, gradients_again) = (loss_and_gradients(net, inputs) for net in (plain, again))
    assert loss_again == pytest.approx(loss, rel=1e-6)
    for one, other in zip(gradients, gradients_again, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6 * max(1, np.abs(one).max()), rtol=0)
