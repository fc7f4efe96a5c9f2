"""An update is that of the whole batch, however it is cut; half precision leaves out what overflows."""

import dataclasses

import mindspore as ms
import numpy as np
import pytest
import scipy.sparse as sp
from mindspore import nn, ops

from cellfm.config import ModelConfig, TrainConfig
from cellfm.data import CellTable
from cellfm.model._parameters import initial_weights
from cellfm.nn import build_network, name_parameters, set_precision
from cellfm.train._feed import Feed
from cellfm.train._objective import PretrainObjective
from cellfm.train._step import MAX_LOSS_SCALE, Step

MODEL = ModelConfig(n_layers=1, d_model=16, n_heads=2, n_genes=300, d_value=8)


@pytest.fixture(scope="module")
def corpus(tiny_vocab) -> CellTable:
    generator = np.random.default_rng(0)
    counts = generator.poisson(generator.gamma(0.3, 2.0, (24, 300))).astype(np.float32)
    return CellTable.from_counts(sp.csr_matrix(counts), np.arange(1, 301), tiny_vocab, np.zeros(24, bool))


class Run:
    """A network and the step that trains it."""

    def __init__(self, corpus: CellTable, *, n_layers: int = 1, **train) -> None:
        options = {"batch_size": 12, "n_chunks": 30, "train_genes": 120, "dropout": 0.0, "schedule": "constant"}
        self.config = TrainConfig(**(options | {"learning_rate": 1e-2} | train))
        model = dataclasses.replace(MODEL, n_layers=n_layers)
        self.feed = Feed(corpus, model, self.config)
        self.network = build_network(model, initial_weights(model), dropout=self.config.dropout)
        set_precision(self.network, self.config.precision)
        self.parameters = name_parameters(self.network)
        self.step = Step(PretrainObjective(self.network, self.config), self.parameters, self.config)

    def __call__(self, step: int = 0):
        batch = self.feed.batch(step)
        return self.step(batch.micro, step, weight=batch.n_targets)

    def weights(self) -> dict[str, np.ndarray]:
        return {name: parameter.asnumpy().copy() for name, parameter in self.parameters.items()}


def test_accumulated_gradients_are_those_of_the_batch(corpus):
    whole, split = Run(corpus, clip="none"), Run(corpus, clip="none", n_chunks=8)
    batches = whole.feed.batch(0), split.feed.batch(0)
    assert [len(batch.micro) for batch in batches] == [1, 3]
    losses, gradients = [], []
    for run, batch in zip((whole, split), batches, strict=True):
        parts = [run.step._gradients(ms.Tensor(np.float32(1)), *map(ms.Tensor, micro)) for micro in batch.micro]
        losses.append(sum(float(loss) for loss, _, _ in parts))
        gradients.append([sum(grad.asnumpy() for grad in grads) for grads in zip(*(p[2] for p in parts), strict=True)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name, one, other in zip(whole.parameters, *gradients, strict=True):
        scale = max(np.abs(one).max(), 1e-3)
        np.testing.assert_allclose(other / scale, one / scale, atol=1e-5, rtol=0, err_msg=name)
    results = whole(), split()
    assert results[1].loss == pytest.approx(results[0].loss, rel=1e-5)
    assert results[1].norm == pytest.approx(results[0].norm, rel=1e-4)
    np.testing.assert_allclose(results[1].terms, results[0].terms, rtol=1e-5)


def test_updates_lower_the_loss_and_leave_padding_at_zero(corpus):
    run = Run(corpus)
    before = run.weights()
    losses = [run(step % 2).loss for step in range(16)]
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])
    after = run.weights()
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert changed == before.keys() - {"embed.zero"}, "all but what zero modelling reads"
    assert not after["embed.gene"][0].any()
    np.testing.assert_array_equal(after["embed.gene"][301:], before["embed.gene"][301:])


def test_only_the_named_parameters_are_trained(corpus):
    run = Run(corpus)
    name = "cell_decoder.inner.weight"
    run.step = Step(run.step.objective, {name: run.parameters[name]}, run.config)
    before = run.weights()
    run()
    after = run.weights()
    assert [found for found in before if (before[found] != after[found]).any()] == [name]


def test_dropout_in_training_only(corpus):
    run = Run(corpus, n_layers=2, dropout=0.5, learning_rate=1e-12)
    arrays = list(map(ms.Tensor, run.feed.batch(0).micro[0]))
    objective = run.step.objective

    def loss(*arrays):
        return objective(*arrays)[0]

    compiled = ms.jit(loss)
    drawn, fixed = [], []
    for _ in range(2):  # what is compiled for the one must not serve the other
        drawn.append(run().loss)
        objective.set_train(False)
        fixed.append(float(compiled(*arrays)))
    assert drawn[0] == pytest.approx(drawn[1], rel=1e-6), "what is dropped follows from the step"
    assert fixed[0] == pytest.approx(fixed[1], rel=1e-6)
    assert abs(drawn[0] - fixed[0]) > 1e-3


class Linear(nn.Cell):
    """A loss that is linear in its only weight: the input is the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = ms.Parameter(ms.Tensor(np.ones(3, np.float32)), name="weight")

    def construct(self, x: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        return (x * self.weight).sum(), ops.zeros(4)


def linear_step(**train) -> tuple[Step, ms.Parameter]:
    cell = Linear()
    return Step(cell, {"weight": cell.weight}, TrainConfig(**train)), cell.weight


def gradient(*numbers: float) -> list[list[np.ndarray]]:
    return [[np.array(numbers, np.float32)]]


def test_norm_and_loss_are_told_without_the_loss_scale():
    step, _ = linear_step(precision="float16", loss_scale=1024.0)
    result = step(gradient(3, 4, 12), 0)
    assert (result.loss, result.norm, result.skipped) == (19, 13, False)


def test_weight_of_one_process_cancels():
    norms = []
    for weight in (1.0, 250.0):
        step, parameter = linear_step(clip="none")
        norms.append((step(gradient(1, 2, 3), 0, weight=weight).norm, *parameter.asnumpy()))
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-6)


def test_overflow_leaves_out_the_step_and_halves_the_scale():
    step, weight = linear_step(precision="float16", loss_scale=4096.0)
    step(gradient(1, 1, 1), 0)
    before, moments = weight.asnumpy().copy(), [array.copy() for array in step.optimizer.state().values()]
    result = step(gradient(1, np.inf, 1), 1)
    assert result.skipped
    assert (step.loss_scale, step.steps_since_overflow) == (2048, 0)
    np.testing.assert_array_equal(weight.asnumpy(), before)
    for array, former in zip(step.optimizer.state().values(), moments, strict=True):
        np.testing.assert_array_equal(array, former)
    assert not step(gradient(1, 1, 1), 2).skipped
    assert (weight.asnumpy() != before).all()


def test_a_window_without_overflow_doubles_the_scale():
    step, _ = linear_step(precision="float16", loss_scale=8.0, loss_scale_window=3)
    scales = []
    for overflow in (False, False, True, False, False, False, False, False, False):
        step._rescale(overflow=overflow)
        scales.append(step.loss_scale)
    assert scales == [8, 8, 4, 4, 4, 8, 8, 8, 16]


def test_scale_stays_within_its_bounds():
    step, _ = linear_step(precision="float16", loss_scale=MAX_LOSS_SCALE, loss_scale_window=1)
    step._rescale(overflow=False)
    assert step.loss_scale == MAX_LOSS_SCALE
    for _ in range(40):
        step._rescale(overflow=True)
    assert step.loss_scale == 1


def test_only_half_precision_scales_the_loss():
    step, weight = linear_step(precision="float32", loss_scale=4096.0, loss_scale_window=1)
    assert step.loss_scale == 1
    step(gradient(1, 1, 1), 0)
    assert step.loss_scale == 1
    before = weight.asnumpy().copy()
    result = step(gradient(np.nan, 1, 1), 1)
    assert not result.skipped, "there is no scale to lower"
    np.testing.assert_array_equal(weight.asnumpy(), before)


def test_half_precision_overflows_and_recovers(corpus):
    run = Run(corpus, precision="float16", loss_scale=MAX_LOSS_SCALE, batch_size=2, n_chunks=2, train_genes=40)
    before = run.weights()
    result, n_skipped = run(), 0
    assert result.skipped, "gradients times 2^24 are beyond float16"
    assert np.isfinite(result.loss)
    for name, array in run.weights().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    while result.skipped:
        result, n_skipped = run(), n_skipped + 1
    assert run.step.loss_scale == MAX_LOSS_SCALE / 2**n_skipped
    assert run.step.loss_scale > 1
    full = Run(corpus, batch_size=2, n_chunks=2, train_genes=40)()
    assert result.loss == pytest.approx(full.loss, rel=2e-2)
    assert result.norm == pytest.approx(full.norm, rel=5e-2)
