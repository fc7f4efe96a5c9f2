"""Training in JAX with less: recomputed activations change nothing, and half precision is near float32."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp

from cellfm.config import ModelConfig, TrainConfig
from cellfm.corpus._cell_table import CellTable
from cellfm.engines import Objective
from cellfm.engines.jax.operations import SCANNED_FROM
from cellfm.engines.jax.training import JaxTrainer
from cellfm.genes.vocabulary import Vocabulary
from cellfm.nn.objectives import pretraining
from cellfm.nn.parameters import initial_weights
from cellfm.nn.weights import nest
from cellfm.train._feed import Feed

CONFIG = TrainConfig(steps=4, batch_size=4, n_chunks=4, train_genes=40, dropout=0.2, learning_rate=1e-3, epsilon=1e-4)


@pytest.fixture(scope="module")
def trained(tiny_vocab: Vocabulary):
    """Losses and weights after four steps, and weights at the start, by layers and what is changed in the config."""
    counts = np.random.default_rng(0).poisson(1.0, (8, len(tiny_vocab))).astype(np.float32)
    ids = np.arange(1, len(tiny_vocab) + 1, dtype=np.int32)
    cells = CellTable.from_counts(sp.csr_matrix(counts), ids, tiny_vocab, np.zeros(8, bool))
    found = {}

    def train(n_layers, **options):
        key = (n_layers, *options.items())
        if key not in found:
            model = ModelConfig(n_layers, 8, 2, len(tiny_vocab), d_value=4, max_genes=60)
            config = dataclasses.replace(CONFIG, **options)
            feed = Feed(cells, model, config)
            weights = initial_weights(model, 0)
            objective = Objective(pretraining(model, config), 2 * n_layers)
            trainer = JaxTrainer(objective, weights, list(weights), config, nest)
            losses = [trainer(feed.batch(step).micro, step).loss for step in range(config.steps)]
            found[key] = losses, trainer.weights(), weights
        return found[key]

    return train


@pytest.mark.parametrize("n_layers", [2, SCANNED_FROM])
def test_recomputed_layers_give_the_same(trained, n_layers):
    (losses, weights, start), (others, its, _) = trained(n_layers), trained(n_layers, recompute=True)
    np.testing.assert_allclose(others, losses, rtol=1e-6)
    for name, array in weights.items():
        np.testing.assert_allclose(its[name], array, atol=1e-6, rtol=0, err_msg=name)
    assert max(np.abs(weights[name] - array).max() for name, array in start.items()) > 1e-3


@pytest.mark.parametrize(
    ("options", "rounded"),
    [({"precision": "float16", "loss_scale": 1024.0}, 1e-3), ({"precision": "bfloat16"}, 1e-2)],
    ids=["float16", "bfloat16"],
)
def test_half_precision_is_near_and_keeps_float32_weights(trained, options, rounded):
    (losses, weights, start), (others, its, _) = trained(2), trained(2, **options)
    np.testing.assert_allclose(others, losses, rtol=rounded)
    assert others != losses
    moved = np.concatenate([(weights[name] - array).ravel() for name, array in start.items()])
    its_moved = np.concatenate([(its[name] - array).ravel() for name, array in start.items()])
    assert all(array.dtype == np.float32 for array in its.values())
    assert moved @ its_moved / np.linalg.norm(moved) / np.linalg.norm(its_moved) > 0.98
