"""Laws of the network: layout, order of tokens and mode of execution change nothing."""

import mindspore as ms
import numpy as np
import pytest

from cellfm.config import ModelConfig
from cellfm.data import TokenBatch, chunk_cells
from cellfm.model._parameters import initial_weights
from cellfm.nn import CellEncoder, Outputs, build_network

CONFIG = ModelConfig(n_layers=3, d_model=24, n_heads=3, n_genes=400, d_value=8)


def random_tokens(lengths, seed=0) -> TokenBatch:
    generator = np.random.default_rng(seed)
    ids = np.concatenate([generator.permutation(400)[:n] + 1 for n in lengths])
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    return TokenBatch(indptr, ids.astype(np.int32), generator.random(len(ids), np.float32) * 5)


@pytest.fixture(scope="module")
def network():
    return build_network(CONFIG, initial_weights(CONFIG, random_state=3))


def run(network, tokens, visible=None, **shape) -> tuple[np.ndarray, ...]:
    chunks = chunk_cells(tokens, np.arange(tokens.n_cells), **shape)
    shown = np.ones(chunks.mask.size, np.float32)
    if visible is not None:
        shown[chunks.token_row] = visible
    arrays = (
        chunks.gene_ids,
        chunks.values,
        shown.reshape(chunks.mask.shape),
        chunks.mask,
        chunks.chunk_cell,
        chunks.cls_row,
    )
    outputs = Outputs(*(output.asnumpy() for output in network(*map(ms.Tensor, arrays))))
    ragged = [array.reshape(-1, *array.shape[2:])[chunks.token_row] for array in outputs[1:]]
    return outputs.cell[: tokens.n_cells], *ragged


def close(some, others):
    for one, other in zip(some, others, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [{"length": 16}, {"length": 512}, {"n_chunks": 40, "n_slots": 9}])
@pytest.mark.parametrize("hidden", [0.0, 0.3])
def test_chunking_and_padding_change_nothing(network, shape, hidden):
    tokens = random_tokens([300, 1, 63, 64, 120])
    visible = (np.random.default_rng(1).random(len(tokens.gene_ids)) >= hidden).astype(np.float32)
    close(run(network, tokens, visible), run(network, tokens, visible, **shape))


def test_order_of_tokens_does_not_matter(network):
    tokens = random_tokens([200])
    order = np.random.default_rng(2).permutation(200)
    shuffled = TokenBatch(tokens.indptr, tokens.gene_ids[order], tokens.values[order])
    cell, *genes = run(network, tokens)
    close((cell, *(array[order] for array in genes)), run(network, shuffled))


def test_cells_do_not_see_each_other(network):
    together = random_tokens([50, 90, 10])
    alone = TokenBatch(np.array([0, 90]), together.gene_ids[50:140], together.values[50:140])
    np.testing.assert_allclose(run(network, together)[0][1], run(network, alone)[0][0], atol=1e-5, rtol=0)


def test_hidden_values_have_no_influence(network):
    tokens = random_tokens([100])
    visible = np.ones(100, np.float32)
    visible[10:30] = 0
    other = tokens.values.copy()
    other[10:30] = 9.0
    close(run(network, tokens, visible), run(network, TokenBatch(tokens.indptr, tokens.gene_ids, other), visible))


def test_visible_values_have_influence(network):
    tokens = random_tokens([100])
    other = tokens.values.copy()
    other[10] += 1
    changed = run(network, TokenBatch(tokens.indptr, tokens.gene_ids, other))[0]
    assert np.abs(changed - run(network, tokens)[0]).max() > 1e-4


def test_jit_equals_pynative(network):
    tokens = random_tokens([80, 200])
    compiled = build_network(CONFIG, initial_weights(CONFIG, random_state=3))
    compiled.construct = ms.jit(compiled.construct)
    close(run(network, tokens), run(compiled, tokens))


def test_short_path_equals_the_network(network):
    tokens = random_tokens([80, 200, 3])
    chunks = chunk_cells(tokens, np.arange(3), n_chunks=16, n_slots=5)
    arrays = (chunks.gene_ids, chunks.values, chunks.mask, chunks.chunk_cell, chunks.cls_row)
    short = CellEncoder(network)(*map(ms.Tensor, arrays)).asnumpy()[:3]
    np.testing.assert_allclose(short, run(network, tokens)[0], atol=1e-5, rtol=0)


def test_dropout_only_in_training():
    network = build_network(CONFIG, initial_weights(CONFIG), dropout=0.5)
    tokens = random_tokens([60])
    close(run(network, tokens), run(network, tokens))
    evaluated = run(network, tokens)[0]
    network.set_train(True)
    assert np.abs(run(network, tokens)[0] - evaluated).max() > 1e-3
