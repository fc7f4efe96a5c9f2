"""The terms of integration: what each asks, what it leaves alone, and the adversary's gradient."""

import numpy as np
import pytest
from cell_pairs import cosine, naive_discrepancy, naive_pairs
from nn_inputs import micro_batch, random_tokens, random_weights, with_options
from numpy_operations import NumpyOperations
from on_engine import differences, differentiate, run

from cellfm.config import TrainConfig
from cellfm.nn.heads import mlp_head, mlp_head_weights
from cellfm.nn.integration import (
    IntegrationWeights,
    discrepancy_loss,
    elastic_loss,
    integration,
    structure_loss,
)
from cellfm.nn.network import embed_cells
from cellfm.nn.objectives import pretraining
from cellfm.nn.weights import nest

CONFIG = with_options(d_model=16, n_heads=2, n_genes=100)
TRAIN = TrainConfig(dropout=0.0)
SIZES = {"n_batches": 2, "n_masked": 3, "mean_square": 2.0}
MICRO = micro_batch(random_tokens([70, 30, 63, 40], 100), CONFIG, n_slots=6, n_chunks=8)
LABEL = np.array([0, 1, 0, 1, -2, -2], np.int32)
START = np.random.default_rng(0).standard_normal((6, 16)).astype(np.float32)
WEIGHT = np.array([0.2, 0.3, 0.2, 0.3, 0, 0], np.float32)
ARRAYS = (*MICRO._replace(label=LABEL), START, WEIGHT, np.float32(0.5))


def terms(xp, p, cell, start, codes):
    return (
        structure_loss(xp, cell, start, codes),
        elastic_loss(xp, cell, codes),
        discrepancy_loss(xp, cell, codes, 3),
    )


def test_terms_are_means_over_pairs_of_cells(engine):
    cell, start = np.random.default_rng(1).standard_normal((2, 9, 5)).astype(np.float32)
    codes = np.array([0, 1, 0, 2, 1, 0, 1, -2, -2], np.int32)
    structure, elastic, discrepancy = map(float, run(engine, terms, {}, cell, start, codes))
    change = naive_pairs(lambda i, j: (cosine(cell, i, j) - cosine(start, i, j)) ** 2, codes, own_batch=True)
    assert structure == pytest.approx(change, rel=1e-4)
    from_centre = naive_pairs(lambda i, j: 1 - (max(cosine(cell, i, j), 0) - 0.8) ** 2, codes, own_batch=False)
    assert elastic == pytest.approx(from_centre, rel=1e-4)
    expected = naive_discrepancy(cell, codes[:7], 3)
    assert discrepancy == pytest.approx(expected, rel=1e-4)
    twice = np.concatenate((cell[:4], cell[:4]))
    alike = run(engine, terms, {}, twice, twice, np.repeat(np.array([0, 1], np.int32), 4))[2]
    assert float(alike) == pytest.approx(0, abs=1e-6), "batches that are spread alike"


def test_the_elastic_term_draws_the_like_together_and_the_unlike_apart():
    def loss(angle: float) -> float:
        cells = np.array([[1, 0], [np.cos(angle), np.sin(angle)]])
        return float(elastic_loss(NumpyOperations(), cells, np.zeros(2, np.int32)))

    like, unlike = np.arccos(0.9), np.arccos(0.5)
    assert loss(like - 0.1) < loss(like) < loss(like + 0.1)
    assert loss(unlike + 0.1) < loss(unlike) < loss(unlike - 0.1)


def flat_weights() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(2)
    head = {
        f"head.{name}": (generator.standard_normal(array.shape) * 0.3).astype(np.float32)
        for name, array in mlp_head_weights(16, 2, n_layers=2).items()
    }
    fixed = {"fixed.mean": np.zeros(16, np.float32), "fixed.inv_scale": np.ones(16, np.float32)}
    return random_weights(CONFIG) | head | fixed


def objective(**weights):
    parts = dict.fromkeys(("adversary", "structure", "masked", "elastic", "discrepancy"), 0.0) | weights
    return integration(CONFIG, TRAIN, IntegrationWeights(**parts), **SIZES)


def test_the_loss_is_the_weighted_sum_of_its_terms(engine):
    weights = {"adversary": 0.7, "structure": 2.0, "masked": 3.0, "elastic": 0.5, "discrepancy": 5.0}
    loss, flat = objective(**weights), flat_weights()

    def of_arrays(xp, p, *arrays):
        return loss(xp, p, arrays, None)

    total, found = run(engine, of_arrays, flat, *ARRAYS)
    expected = found[0] + 2 * found[1] + 3 * found[2] + 0.5 * found[3] + 5 * 0.5 * found[4]
    assert float(total) == pytest.approx(float(expected), rel=1e-5), "the discrepancy grows with the ramp"
    xp, p = NumpyOperations(), nest({name: array.astype(float) for name, array in flat.items()})
    cell = cells_of(xp, p)
    of_cells = [float(term) for term in (structure_loss(xp, cell, START, LABEL), elastic_loss(xp, cell, LABEL))]
    np.testing.assert_allclose(found[[1, 3]], of_cells, rtol=1e-4)
    target = MICRO.target.copy()
    target[3:] = 0  # masked values are asked of the first chunks alone
    masked = pretraining(CONFIG, TRAIN)(xp, p, MICRO._replace(target=target), None)[0]
    assert float(found[2]) == pytest.approx(float(masked) / (2 * SIZES["mean_square"]), rel=1e-4)
    own = mlp_head(xp, p["head"], cell, 0, 1)
    log_p = own - xp.logsumexp(own)[:, None]
    assert float(found[0]) == pytest.approx(-sum(WEIGHT[i] * log_p[i, LABEL[i]] for i in range(4)), rel=1e-4)


def cells_of(xp, p):
    layout = (MICRO.gene_ids, MICRO.mask, MICRO.chunk_cell, MICRO.cls_row)
    return embed_cells(xp, CONFIG, p, MICRO.values, layout)


def test_the_network_gets_what_the_discriminator_gets_turned_round_and_gated(engine):
    """The discriminator lowers ``-log p`` of the batch, the network, on its own, ``-log(1 - p)``, by its share."""
    flat, names = flat_weights(), ["backbone.layers.1.norm2.beta", "head.output.linear.weight"]
    _, found = differentiate(engine, objective(adversary=0.7), flat, ARRAYS, names)

    def probability(moved):
        xp, p = NumpyOperations(), nest({name: a.astype(float) for name, a in (flat | moved).items()})
        logits = mlp_head(xp, p["head"], cells_of(xp, p), 0, 1)
        return np.exp(logits - xp.logsumexp(logits)[:, None])[np.arange(4), LABEL[:4]]

    of_head = differences(lambda moved: -(np.log(probability(moved)) * WEIGHT[:4]).sum(), {names[1]: flat[names[1]]})
    of_network = differences(
        lambda moved: -(np.log(1 - probability(moved)) * WEIGHT[:4]).sum(), {names[0]: flat[names[0]]}
    )
    for name, expected in ((names[1], of_head[names[1]]), (names[0], 0.7 * 0.5 * of_network[names[0]])):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found[name] / scale, expected / scale, atol=1e-3, rtol=0, err_msg=name)


def test_without_an_adversary_there_is_no_discriminator(engine):
    _, found = differentiate(
        engine, objective(masked=1.0), flat_weights(), ARRAYS, ["backbone.layers.1.norm2.beta", "head.output.bias"]
    )
    assert not found["head.output.bias"].any()
    assert found["backbone.layers.1.norm2.beta"].any()
