"""Heads: the one in NumPy is the one in MindSpore, and a query head sees a cell as a set of genes."""

from itertools import pairwise

import mindspore as ms
import numpy as np
import pytest

from cellfm.config import ModelConfig
from cellfm.data import TokenBatch, chunk_cells
from cellfm.nn import MLPHead, QueryHead, draw_head, head_weights, set_head
from cellfm.tasks.annotation._head import MLPHead as ArrayHead
from cellfm.tasks.annotation._mlp import MLP

CONFIG = ModelConfig(2, 16, 2, 50, d_value=8, max_genes=300)
SAME = {"atol": 1e-5, "rtol": 1e-4}


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_numpy_and_mindspore_agree(n_layers):
    generator = np.random.default_rng(n_layers)
    x = generator.standard_normal((12, 16)).astype(np.float32) * 3 + 1
    head = MLPHead(x.mean(0), x.std(0), 4, n_layers=n_layers).set_train(False)
    drawn = {name: generator.standard_normal(a.shape).astype(np.float32) for name, a in head_weights(head).items()}
    set_head(head, drawn)
    arrays = ArrayHead.from_arrays({"mean": x.mean(0), "scale": x.std(0)} | drawn)
    np.testing.assert_allclose(arrays.mlp.logits(x), head(ms.Tensor(x)).asnumpy(), **SAME)
    assert {name: a.shape for name, a in arrays.parameters().items()} == {name: a.shape for name, a in drawn.items()}


def test_an_mlp_starts_undecided():
    x = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    head = MLPHead(x.mean(0), x.std(0), 3, n_layers=2)
    draw_head(head)
    assert np.abs(head_weights(head)["hidden.0.linear.weight"]).max() > 0
    np.testing.assert_array_equal(head(ms.Tensor(x)).asnumpy(), 0)
    np.testing.assert_array_equal(MLP.start(x, 3, 2, 0).logits(x), 0)


def query_logits(head, lengths, order=None, n_slots=None, n_chunks=None):
    """Both logits of cells whose tokens follow from the gene, in whatever order they stand."""
    indptr = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    ids = np.concatenate([np.arange(1, n + 1) for n in lengths]).astype(np.int32)
    if order is not None:
        ids = np.concatenate([ids[a:b][order(b - a)] for a, b in pairwise(indptr)])
    batch = TokenBatch(indptr, ids, ids.astype(np.float32))
    chunks = chunk_cells(batch, np.arange(len(lengths)), n_slots=n_slots, n_chunks=n_chunks)
    table = np.random.default_rng(3).standard_normal((400, 16)).astype(np.float32)
    tokens = ms.Tensor(table[chunks.gene_ids])
    cell = ms.Tensor(table[399 - np.arange(len(chunks.cls_row))])
    layout = tuple(map(ms.Tensor, (chunks.gene_ids, chunks.mask, chunks.chunk_cell, chunks.cls_row)))
    return [part.asnumpy()[: len(lengths)] for part in head(cell, tokens, layout)]


@pytest.fixture(scope="module")
def query_head():
    head = QueryHead(CONFIG, 3)
    draw_head(head, random_state=1)
    return head.set_train(False)


def test_query_logits_have_a_value_for_each_class(query_head):
    for part in query_logits(query_head, [10, 200]):
        assert part.shape == (2, 3)
        assert np.ptp(part, axis=1).min() > 1e-3


def test_the_order_of_genes_does_not_matter_to_queries(query_head):
    expected = query_logits(query_head, [10, 200])
    for found, part in zip(
        query_logits(query_head, [10, 200], order=lambda n: np.arange(n)[::-1]), expected, strict=True
    ):
        np.testing.assert_allclose(found, part, **SAME)


def test_padding_and_other_cells_do_not_matter_to_queries(query_head):
    expected = query_logits(query_head, [10])
    for others in (query_logits(query_head, [10, 200]), query_logits(query_head, [10], n_slots=5, n_chunks=9)):
        for found, part in zip(others, expected, strict=True):
            np.testing.assert_allclose(found[:1], part, **SAME)


def test_queries_read_the_genes(query_head):
    some, other = query_logits(query_head, [10]), query_logits(query_head, [150])
    assert all(np.abs(a - b).max() > 1e-2 for a, b in zip(some, other, strict=True))


def test_heads_are_drawn_from_the_seed():
    drawn = []
    for seed in (0, 0, 1):
        head = QueryHead(CONFIG, 3)
        draw_head(head, random_state=seed)
        drawn.append(head_weights(head))
    np.testing.assert_array_equal(drawn[0]["classes"], drawn[1]["classes"])
    assert np.abs(drawn[0]["classes"] - drawn[2]["classes"]).max() > 0
