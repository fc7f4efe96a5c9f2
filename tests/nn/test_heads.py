"""Heads: an MLP is its formula, a query head sees a cell as a set of genes, and classification adds their losses."""

from itertools import pairwise

import numpy as np
import pytest
from nn_inputs import laid_out, random_tokens, random_weights, with_options
from numpy_operations import NumpyOperations
from on_engine import run

from cellfm.cells.chunk import chunk_cells
from cellfm.cells.tokenize import TokenBatch
from cellfm.nn.classification import classification
from cellfm.nn.heads import mlp_head, mlp_head_weights, query_head, query_head_config, query_head_weights
from cellfm.nn.network import network
from cellfm.nn.weights import nest

CONFIG = with_options(d_model=16, n_heads=2, n_genes=50)
CROSS = query_head_config(CONFIG)
SAME = {"atol": 1e-5, "rtol": 1e-4}


def drawn(weights, seed=1):
    """All of them at random."""
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(array.shape).astype(np.float32) for name, array in weights.items()}


def mlp(xp, p, cell, mean, inv_scale):
    return mlp_head(xp, p, cell, mean, inv_scale)


@pytest.mark.parametrize("n_layers", [1, 3])
def test_an_mlp_is_its_formula_and_starts_undecided(engine, n_layers):
    generator = np.random.default_rng(n_layers)
    x = generator.standard_normal((12, 16)).astype(np.float32) * 3 + 1
    mean, inv_scale = x.mean(0), 1 / x.std(0)
    start = mlp_head_weights(16, 4, n_layers=n_layers)
    weights = drawn(start)
    expected = (x - mean) * inv_scale
    for i in range(n_layers - 1):
        hidden = f"hidden.{i}"
        expected = np.maximum(expected @ weights[f"{hidden}.linear.weight"].T + weights[f"{hidden}.bias"], 0)
    expected = expected @ weights["output.linear.weight"].T + weights["output.bias"]
    np.testing.assert_allclose(run(engine, mlp, weights, x, mean, inv_scale), expected, **SAME)
    np.testing.assert_array_equal(run(engine, mlp, start, x, mean, inv_scale), 0)
    assert all(np.abs(array).max() > 0 for name, array in start.items() if "hidden" in name and "weight" in name)


def queried(xp, p, cell, tokens, gene_ids, mask, chunk_cell, cls_row):
    return query_head(xp, CROSS, p, cell, tokens, (gene_ids, mask, chunk_cell, cls_row))


def query_logits(engine, lengths, order=None, n_slots=None, n_chunks=None):
    """Both logits of cells whose tokens follow from the gene, in whatever order they stand."""
    indptr = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    ids = np.concatenate([np.arange(1, n + 1) for n in lengths]).astype(np.int32)
    if order is not None:
        ids = np.concatenate([ids[a:b][order(b - a)] for a, b in pairwise(indptr)])
    chunks = chunk_cells(
        TokenBatch(indptr, ids, ids.astype(np.float32)), np.arange(len(lengths)), n_slots=n_slots, n_chunks=n_chunks
    )
    table = np.random.default_rng(3).standard_normal((400, 16)).astype(np.float32)
    cell = table[399 - np.arange(len(chunks.cls_row))]
    layout = (chunks.gene_ids, chunks.mask, chunks.chunk_cell, chunks.cls_row)
    found = run(engine, queried, query_head_weights(CONFIG, 3, random_state=1), cell, table[chunks.gene_ids], *layout)
    return [part[: len(lengths)] for part in found]


def test_a_query_head_sees_a_cell_as_a_set_of_genes(engine):
    """Their order does not matter, nor do padding and other cells; what they are does."""
    both, alone = query_logits(engine, [10, 200]), query_logits(engine, [10])
    for part in both:
        assert part.shape == (2, 3)
        assert np.ptp(part, axis=1).min() > 1e-3, "a value for each class"
    backwards = query_logits(engine, [10, 200], order=lambda n: np.arange(n)[::-1])
    padded = query_logits(engine, [10], n_slots=5, n_chunks=9)
    other = query_logits(engine, [150])
    for i in range(2):
        np.testing.assert_allclose(backwards[i], both[i], **SAME)
        np.testing.assert_allclose(both[i][:1], alone[i], **SAME)
        np.testing.assert_allclose(padded[i], alone[i], **SAME)
        assert np.abs(other[i] - alone[i]).max() > 1e-2


def test_heads_are_drawn_from_the_seed():
    some, same, other = (query_head_weights(CONFIG, 3, random_state=seed) for seed in (0, 0, 1))
    for name, array in some.items():
        np.testing.assert_array_equal(array, same[name])
        assert array.dtype == np.float32
    assert np.abs(some["classes"] - other["classes"]).max() > 0


@pytest.mark.parametrize("with_queries", [False, True])
def test_the_loss_of_classes_is_the_cross_entropy_of_the_head(engine, with_queries):
    tokens = random_tokens([30, 70, 10], 50 + 20)
    tokens = TokenBatch(tokens.indptr, np.minimum(tokens.gene_ids, 50), tokens.values, tokens.depth)
    chunks = laid_out(tokens, CONFIG, n_slots=4)
    label, weight = np.array([2, 0, 1, -1], np.int32), np.array([0.5, 0.2, 0.3, 0], np.float32)
    start = query_head_weights(CONFIG, 3) if with_queries else mlp_head_weights(16, 3, n_layers=2)
    flat = random_weights(CONFIG) | {f"head.{name}": array for name, array in drawn(start).items()}
    if not with_queries:
        flat |= {"fixed.mean": np.full(16, 0.3, np.float32), "fixed.inv_scale": np.full(16, 0.7, np.float32)}
    layout = (chunks.gene_ids, chunks.mask, chunks.chunk_cell, chunks.cls_row)
    arrays = (chunks.gene_ids, chunks.values, chunks.mask, *layout[1:], label, weight)
    loss = classification(CONFIG, with_queries=with_queries)

    def of_arrays(xp, p, *arrays):
        return loss(xp, p, arrays, None)

    total, terms = run(engine, of_arrays, flat, *arrays)
    xp, p = NumpyOperations(), nest({name: array.astype(float) for name, array in flat.items()})
    cell, seen, _, _ = network(xp, CONFIG, p, chunks.values, chunks.mask, layout)
    logits = (
        query_head(xp, CROSS, p["head"], cell, seen, layout)
        if with_queries
        else [mlp_head(xp, p["head"], cell, p["fixed"]["mean"], p["fixed"]["inv_scale"])]
    )
    expected = 0.0
    for part in logits:
        probabilities = np.exp(part) / np.exp(part).sum(1, keepdims=True)
        expected -= sum(w * np.log(probabilities[i, c]) for i, (c, w) in enumerate(zip(label, weight, strict=True)))
    assert float(total) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(terms, [float(total)])
