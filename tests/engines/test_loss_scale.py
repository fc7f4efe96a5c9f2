"""Half precision leaves out what overflows, and no scale or weight of a process is seen from outside."""

import numpy as np
import pytest

from cellfm.config import TrainConfig
from cellfm.engines import Objective
from cellfm.engines.training import MAX_LOSS_SCALE, LossScale


def linear(xp, p, arrays, keys):
    """A loss whose gradient is its input."""
    total = (arrays[0] * p["weight"]).sum()
    return total, xp.stack((total, arrays[0].sum()), 0)


def trainer_of(engine, **train):
    return engine.trainer(Objective(linear), {"weight": np.ones(3, np.float32)}, ["weight"], TrainConfig(**train), dict)


def gradient(*numbers: float) -> list[list[np.ndarray]]:
    return [[np.array(numbers, np.float32)]]


def state_of(trainer) -> np.ndarray:
    return np.concatenate([trainer.weights()["weight"], *trainer.moments().values()])


def test_overflow_leaves_out_the_step_and_halves_the_scale(engine):
    trainer = trainer_of(engine, precision="float16", loss_scale=1024.0)
    result = trainer(gradient(3, 4, 12), 0)
    assert (result.loss, result.norm, result.skipped) == (19, 13, False), "told without the scale"
    np.testing.assert_array_equal(result.terms, [19, 19])
    before = state_of(trainer)
    assert trainer(gradient(1, np.inf, 1), 1).skipped
    assert (trainer.scale.value, trainer.scale.steps_since_overflow) == (512, 0)
    np.testing.assert_array_equal(state_of(trainer), before)
    assert not trainer(gradient(1, 1, 1), 2).skipped
    assert (trainer.weights()["weight"] != before[:3]).all()


def test_only_half_precision_scales_the_loss(engine):
    trainer = trainer_of(engine, precision="float32", loss_scale=4096.0, loss_scale_window=1)
    assert trainer.scale.value == 1
    trainer(gradient(1, 1, 1), 0)
    assert trainer.scale.value == 1
    before = state_of(trainer)
    result = trainer(gradient(np.nan, 1, 1), 1)
    assert not result.skipped, "there is no scale to lower"
    np.testing.assert_array_equal(state_of(trainer), before)


def test_micro_batches_add_up_and_the_weight_of_one_process_cancels(engine):
    ends = []
    for micro_batches, weight in (
        (gradient(1, 2, 3), 1.0),
        (gradient(1, 2, 3), 250.0),
        (gradient(1, 0, 0) + gradient(0, 2, 1) + gradient(0, 0, 2), 1.0),
    ):
        trainer = trainer_of(engine, clip="none")
        result = trainer(micro_batches, 0, weight=weight)
        ends.append((result.loss, result.norm, *result.terms, *state_of(trainer)))
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-6)
    np.testing.assert_allclose(ends[2], ends[0], rtol=1e-6)


def test_a_process_that_was_asked_to_stop_says_so(engine):
    trainer = trainer_of(engine)
    assert [trainer(gradient(1, 1, 1), step, stop=bool(step)).stop for step in range(2)] == [False, True]


def test_statistics_are_those_of_the_last_micro_batch(engine):
    def loss(xp, p, arrays, keys):
        total = (arrays[0] * p["weight"]).sum()
        return total, total.reshape((1,)), (0.5 * p["seen"] + 0.5 * xp.stop_gradient(arrays[0]),)

    weights = {"weight": np.ones(3, np.float32), "seen": np.ones(3, np.float32)}
    trainer = engine.trainer(Objective(loss, statistics=("seen",)), weights, ["weight"], TrainConfig(), dict)
    trainer(gradient(9, 9, 9) + gradient(1, 2, 3), 0)
    np.testing.assert_allclose(trainer.weights()["seen"], [1, 1.5, 2])
    trainer(gradient(1, 1, 1), 1)
    np.testing.assert_allclose(trainer.weights()["seen"], [1, 1.25, 1.5])


def test_a_window_without_overflow_doubles_the_scale():
    scale = LossScale(TrainConfig(precision="float16", loss_scale=8.0, loss_scale_window=3))
    scales = []
    for overflow in (False, False, True, False, False, False, False, False, False):
        scale.follow(overflow=overflow)
        scales.append(scale.value)
    assert scales == [8, 8, 4, 4, 4, 8, 8, 8, 16]


def test_scale_stays_within_its_bounds():
    scale = LossScale(TrainConfig(precision="float16", loss_scale=MAX_LOSS_SCALE, loss_scale_window=1))
    scale.follow(overflow=False)
    assert scale.value == MAX_LOSS_SCALE
    for _ in range(40):
        scale.follow(overflow=True)
    assert scale.value == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_other_precisions_have_none(precision):
    scale = LossScale(TrainConfig(precision=precision, loss_scale=8.0, loss_scale_window=1))
    for overflow in (True, False, False):
        scale.follow(overflow=overflow)
    assert (scale.value, scale.steps_since_overflow) == (1, 0)
