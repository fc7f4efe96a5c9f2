"""`cf.train.finetune`: what each method changes, what it keeps, and when it stops."""

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest

from cellfm.config import ModelConfig, TrainConfig
from cellfm.corpus._cell_table import CellTable
from cellfm.engines import Objective
from cellfm.engines.jax.training import JaxTrainer
from cellfm.errors import InputError, TrainingError
from cellfm.genes.vocabulary import Vocabulary
from cellfm.model import CellFM
from cellfm.nn.linear import linear
from cellfm.nn.network import embed_cells
from cellfm.train import finetune

CONFIG = TrainConfig(
    steps=8, batch_size=8, n_chunks=48, learning_rate=3e-3, validate_every=4, dropout=0.0, train_genes=120
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_vocab):
    return CellFM(ModelConfig(1, 16, 2, len(tiny_vocab), d_value=8, max_genes=120), tiny_vocab, random_state=2)


@pytest.fixture
def cells(tiny_adata, tiny_vocab):
    ids = np.concatenate((np.arange(1, 301), np.zeros(20))).astype(np.int32)
    held_out = np.arange(tiny_adata.n_obs) % 4 == 0
    labels = {"label": tiny_adata.obs["label"].cat.codes.to_numpy().astype(np.int32)}
    return CellTable.from_counts(tiny_adata.X, ids, tiny_vocab, held_out, labels)


def of_one_number(model, power=2.0) -> Objective:
    """An objective with a head of its own: the mean of a projection of CLS should be 3."""
    config = model.config

    def loss(xp, p, arrays, keys):
        gene_ids, values, _, mask, chunk_cell, cls_row, _, _, _, _, share = arrays
        cell = embed_cells(xp, config, p, values, (gene_ids, mask, chunk_cell, cls_row))
        total = (linear(xp, p["head"]["to_number"], cell).mean() - 3.0) ** power * share
        return total, total.reshape((1,))

    return Objective(loss, head={"to_number.weight": np.zeros((1, config.d_model), np.float32)})


def changed(before: CellFM, after: CellFM) -> set[str]:
    return {name for name, array in before.weights.items() if not np.array_equal(array, after.weights[name])}


def test_adapters_are_trained_alone_and_the_same_from_the_same_seed(model, cells):
    some, others = (finetune(model, cells, method="lora", config=CONFIG).model for _ in range(2))
    names = changed(model, some)
    assert {name.split(".")[3] for name in names} == {"attention", "glu"}
    assert some.config == model.config
    for name, array in some.weights.items():
        np.testing.assert_array_equal(array, others.weights[name])


def test_all_weights_are_trained_the_best_are_kept_and_the_model_stays_as_it_was(model, cells):
    before = {name: array.copy() for name, array in model.weights.items()}
    tuned = finetune(model, cells, method="full", config=CONFIG)
    names = changed(model, tuned.model)
    assert all(any(part in name for name in names) for part in ("embed", "attention"))
    losses = tuned.history["validation_loss"]
    assert losses.iloc[-1] < 0.9 * losses.iloc[0]
    assert tuned.best_step == tuned.history["step"][losses.argmin()]
    for name, array in before.items():
        np.testing.assert_array_equal(array, model.weights[name])


def test_frozen_trains_the_head_alone(model, cells):
    tuned = finetune(model, cells, of_one_number(model), method="frozen", config=CONFIG)
    assert not changed(model, tuned.model)
    assert set(tuned.head) == {"to_number.weight"}
    assert np.abs(tuned.head["to_number.weight"]).max() > 0


def test_stops_when_nothing_improves(model, cells):
    # The loss of an untrained head jumps about at this rate: sooner or later nothing is better than the best.
    config = dataclasses.replace(CONFIG, learning_rate=0.5, steps=60, validate_every=1)
    tuned = finetune(model, cells, of_one_number(model), method="frozen", config=config, patience=2)
    assert (tuned.history["step"] > tuned.best_step).sum() == 2
    assert len(tuned.history) < 60


def test_what_cannot_be_done_is_refused(model, cells, tiny_vocab):
    with pytest.raises(InputError, match="Nothing to train"):
        finetune(model, cells, method="frozen", config=CONFIG)
    with pytest.raises(InputError, match="'frozen', 'lora' or 'full', not 'some'"):
        finetune(model, cells, method="some", config=CONFIG)
    none_held_out = CellTable(cells.matrix, tiny_vocab, np.zeros(cells.n_cells, bool), cells.total)
    with pytest.raises(InputError, match="no validation cells"):
        finetune(model, none_held_out, config=CONFIG)
    adapted = CellFM(dataclasses.replace(model.config, lora_rank=2), tiny_vocab)
    with pytest.raises(InputError, match="has adapters already; merge them first"):
        finetune(adapted, cells, config=CONFIG)
    other = CellFM(model.config, Vocabulary(pd.DataFrame({"symbol": tiny_vocab.symbols[::-1]})))
    with pytest.raises(InputError, match="another vocabulary than the model"):
        finetune(other, cells, config=CONFIG)


def test_a_loss_that_is_no_number_ends_the_training(model, cells):
    with pytest.raises(TrainingError, match="The loss became nan at step 1. Lower the learning rate"):
        finetune(model, cells, config=CONFIG, objective=of_one_number(model, 0.5))  # the root of a negative number


def test_a_device_without_memory_is_told_what_would_fit(model, cells, monkeypatch):
    def exhausted(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4096 bytes.")

    monkeypatch.setattr(JaxTrainer, "_compiled_gradients", lambda trainer: exhausted)
    with pytest.raises(TrainingError, match="ran out of memory.* n_chunks = 24 should fit.* The model is unchanged."):
        finetune(model, cells, config=CONFIG)
