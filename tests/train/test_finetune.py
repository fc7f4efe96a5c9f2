"""`cf.train.finetune`: what each method changes, what it keeps, and when it stops."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from mindspore import nn

from cellfm.config import ModelConfig, TrainConfig
from cellfm.data import CellTable
from cellfm.errors import InputError
from cellfm.model import CellFM
from cellfm.nn import Linear
from cellfm.train import finetune
from cellfm.train._ending import TrainingError
from cellfm.vocab import Vocabulary

CONFIG = TrainConfig(
    steps=8, batch_size=8, n_chunks=48, learning_rate=3e-3, validate_every=4, dropout=0.0, train_genes=120
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_vocab):
    return CellFM(ModelConfig(2, 16, 2, len(tiny_vocab), d_value=8, max_genes=120), tiny_vocab, random_state=2)


@pytest.fixture
def cells(tiny_adata, tiny_vocab):
    ids = np.concatenate((np.arange(1, 301), np.zeros(20))).astype(np.int32)
    held_out = np.arange(tiny_adata.n_obs) % 4 == 0
    labels = {"label": tiny_adata.obs["label"].cat.codes.to_numpy().astype(np.int32)}
    return CellTable.from_counts(tiny_adata.X, ids, tiny_vocab, held_out, labels)


class OfOneNumber(nn.Cell):
    """An objective with a head of its own: the mean of a projection of CLS should be 3."""

    def __init__(self, network) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.to_number = Linear(16, 1)

    def construct(self, gene_ids, values, visible, mask, chunk_cell, cls_row, target, partner, kind, one, share):
        cell = self.network(gene_ids, values, visible, mask, chunk_cell, cls_row)[0]
        loss = ((self.to_number(cell).mean() - 3.0) ** 2) * share
        return loss, loss.reshape((1,))


class NoNumber(OfOneNumber):
    def construct(self, gene_ids, values, visible, mask, chunk_cell, cls_row, target, partner, kind, one, share):
        cell = self.network(gene_ids, values, visible, mask, chunk_cell, cls_row)[0]
        loss = (self.to_number(cell).mean() - 1e30).sqrt()
        return loss, loss.reshape((1,))


def changed(before: CellFM, after: CellFM) -> set[str]:
    return {name for name, array in before.weights.items() if not np.array_equal(array, after.weights[name])}


@pytest.mark.parametrize(("method", "expected"), [("lora", {"attention", "glu"}), ("full", {"embed", "attention"})])
def test_the_method_decides_what_is_trained(model, cells, method, expected):
    before = {name: array.copy() for name, array in model.weights.items()}
    tuned = finetune(model, cells, method=method, config=CONFIG)
    names = changed(model, tuned.model)
    assert all(any(part in name for name in names) for part in expected)
    if method == "lora":
        assert all(".attention." in name or ".glu." in name for name in names)
    assert tuned.model.config == model.config
    for name, array in before.items():
        np.testing.assert_array_equal(array, model.weights[name])


def test_validation_loss_falls_and_the_best_is_kept(model, cells):
    tuned = finetune(model, cells, method="full", config=CONFIG)
    losses = tuned.history["validation_loss"]
    assert losses.iloc[-1] < 0.9 * losses.iloc[0]
    assert tuned.best_step == tuned.history["step"][losses.argmin()]


def test_frozen_trains_the_head_alone(model, cells):
    tuned = finetune(model, cells, OfOneNumber, method="frozen", config=CONFIG)
    assert not changed(model, tuned.model)
    assert set(tuned.head) == {"head.to_number.weight"}
    assert np.abs(tuned.head["head.to_number.weight"]).max() > 0


def test_stops_when_nothing_improves(model, cells):
    # The loss of an untrained head jumps about at this rate: sooner or later nothing is better than the best.
    config = dataclasses.replace(CONFIG, learning_rate=0.5, steps=60, validate_every=1)
    tuned = finetune(model, cells, OfOneNumber, method="frozen", config=config, patience=2)
    assert (tuned.history["step"] > tuned.best_step).sum() == 2
    assert len(tuned.history) < 60


def test_same_seed_same_result(model, cells):
    some, others = (finetune(model, cells, method="lora", config=CONFIG) for _ in range(2))
    for name, array in some.model.weights.items():
        np.testing.assert_array_equal(array, others.model.weights[name])


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
    with pytest.raises(InputError, match="over another vocabulary than the model's"):
        finetune(other, cells, config=CONFIG)


def test_a_loss_that_is_no_number_ends_the_training(model, cells):
    with pytest.raises(TrainingError, match="The loss became nan at step 1. Lower the learning rate"):
        finetune(model, cells, config=CONFIG, objective=NoNumber)
