"""`fit`: Adam as published, turns, early stopping, several models side by side, the same numbers for the same seed."""

import numpy as np
import pytest

import cellfm as cf
from cellfm.engines import apply, fit, shuffled
from cellfm.engines._fit import _trainer
from cellfm.errors import InputError

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((64, 3)).astype(np.float32)
TRUTH = np.array([1.0, -2.0, 0.5], np.float32)
Y = X @ TRUTH
START = {"w": np.zeros(3, np.float32)}


def square(xp, weights, x, y, rows):
    return ((x[rows] @ weights["w"] - y[rows]) ** 2).mean()


def pull(xp, weights, slope):
    """A loss with a given gradient."""
    return (weights["w"] * slope).sum()


def all_rows(step):
    return (np.arange(64),)


OPTIONS = {"data": (X, Y), "steps": 300, "learning_rate": 0.05}


def test_what_can_be_learned_is_learned_and_the_loss_falls():
    weights, rows = fit(square, START, all_rows, **OPTIONS, every=100)
    np.testing.assert_allclose(weights["w"], TRUTH, atol=1e-3)
    assert [row["step"] for row in rows] == [0, 100, 200, 300]
    losses = [row["loss"] for row in rows]
    assert np.isnan(losses[0])
    assert losses[1] > losses[2] > losses[3]
    assert (START["w"] == 0).all()


@pytest.mark.parametrize("clip", [None, 0.5])
def test_updates_are_those_of_adamw(clip):
    slopes = GENERATOR.standard_normal((7, 3)).astype(np.float32)
    weights, _ = fit(
        pull,
        {"w": np.ones(3, np.float32)},
        lambda step: (slopes[step],),
        steps=7,
        learning_rate=lambda step: 0.1 / (1 + step),
        betas=(0.5, 0.9),
        weight_decay=0.01,
        clip=clip,
        every=3,
    )
    w, m, v = np.ones(3), np.zeros(3), np.zeros(3)
    for t, slope in enumerate(slopes, 1):
        slope = slope if clip is None else slope * min(1, clip / np.linalg.norm(slope))
        m, v = 0.5 * m + 0.5 * slope, 0.9 * v + 0.1 * slope**2
        w = w - 0.1 / t * (m / (1 - 0.5**t) / (np.sqrt(v / (1 - 0.9**t)) + 1e-8) + 0.01 * w)
    np.testing.assert_allclose(weights["w"], w, rtol=1e-5)


def test_rounds_change_nothing_and_the_same_seed_gives_the_same_numbers():
    batch, n_batches = shuffled(64, 10, 3)
    one, two = (fit(square, START, batch, **OPTIONS, every=every)[0]["w"] for every in (n_batches, 40))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, fit(square, START, shuffled(64, 10, 3)[0], **OPTIONS, every=6)[0]["w"])
    assert (one != fit(square, START, shuffled(64, 10, 4)[0], **OPTIONS, every=6)[0]["w"]).any()


def test_an_epoch_has_each_row_once():
    batch, n_batches = shuffled(64, 10, 0)
    epochs = [np.concatenate([batch(step)[0] for step in range(i, i + n_batches)]) for i in (0, n_batches)]
    assert n_batches == 6
    assert all(len(set(rows)) == 60 for rows in epochs)
    assert (epochs[0] != epochs[1]).any()
    assert shuffled(5, 10, 0)[1] == 1


def test_the_best_weights_are_kept_and_patience_ends_the_fit():
    scores, seen = iter([3.0, 1.0, 2.0, 2.0, 0.0]), []

    def validate(weights):
        seen.append(np.array(weights["w"]))
        return next(scores)

    weights, rows = fit(square, START, all_rows, **OPTIONS, every=10, validate=validate, patience=2)
    assert [row["validation"] for row in rows] == [3.0, 1.0, 2.0, 2.0]
    np.testing.assert_array_equal(weights["w"], seen[1])


def test_without_patience_scores_choose_nothing():
    weights, rows = fit(square, START, all_rows, **OPTIONS, validate=lambda weights: float(weights["w"][0]))
    np.testing.assert_allclose(weights["w"], TRUTH, atol=1e-3)
    assert rows[0]["validation"] == 0
    assert rows[-1]["validation"] == pytest.approx(1, abs=1e-3)


def test_each_of_several_models_keeps_its_own_best():
    scores = iter(np.array([[3.0, 3.0], [1.0, 2.0], [2.0, 1.0], [2.0, 2.0], [0.0, 2.0]]))
    seen = []

    def validate(weights):
        seen.append(np.array(weights["w"]))
        return next(scores)

    start = {"w": np.zeros((2, 3), np.float32)}
    options = {"steps": 9, "learning_rate": 0.1, "every": 1, "validate": validate, "patience": 2}
    weights, _ = fit(pull, start, lambda step: (np.ones((2, 3), np.float32),), **options)
    assert len(seen) == 5  # the first has waited for two rounds after the fourth, the second after the fifth
    np.testing.assert_array_equal(weights["w"], [seen[1][0], seen[2][1]])


def pull_up(xp, weights, slope):
    return -(weights["up"]["w"] * weights["down"]["w"] * slope).sum()


def pull_down(xp, weights, slope):
    return (weights["down"]["w"] * slope).sum()


def not_negative(xp, weights):
    return {"w": xp.maximum(weights["w"], 0)}


def test_parts_take_turns_and_are_projected():
    start = {"up": {"w": np.ones(2, np.float32)}, "down": {"w": np.ones(2, np.float32)}}

    def batch(step):
        return (np.ones(2, np.float32),)

    options = {"turns": ("up", "up", "down"), "learning_rate": 0.1, "project": not_negative, "every": 3}
    losses = {"down": pull_down, "up": pull_up}
    weights, rows = fit(losses, start, batch, steps=6, **options)
    np.testing.assert_allclose(weights["up"]["w"], 1.4, atol=0.01)  # four steps of Adam, of about 0.1 each
    np.testing.assert_allclose(weights["down"]["w"], 0.8, rtol=1e-5)
    assert rows[1]["loss_down"] == pytest.approx(2)
    assert rows[1]["loss_up"] == pytest.approx(-2.1)
    down = fit(losses, start, batch, steps=60, **options)[0]["down"]["w"]
    np.testing.assert_array_equal(down, 0)


def test_fits_with_the_same_shapes_compile_once():
    fit(square, START, all_rows, **OPTIONS)
    _, train = _trainer((("", square),), (0.9, 0.999), 0.0, None, None)
    compiled = train._cache_size()
    fit(square, {"w": TRUTH}, all_rows, **OPTIONS | {"data": (2 * X, Y), "learning_rate": 0.01})
    assert train._cache_size() == compiled


def test_functions_and_gradients_with_respect_to_inputs_are_compiled():
    def potential(xp, weights, x):
        return xp.log(1 + xp.exp(x @ weights["w"]))

    def slope(xp, weights, x):
        return xp.gradient(lambda x: potential(xp, weights, x).sum())(x)

    expected = TRUTH / (1 + np.exp(-Y))[:, None]
    found = apply(slope, {"w": TRUTH}, X)
    assert type(found) is np.ndarray
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_operations_are_what_they_are_called():
    x = np.array([[-2.0, 0.0, 3.0]], np.float32)

    def all_of(xp, weights, x):
        return xp.silu(x), xp.relu(x), xp.leaky_relu(x, 0.2), xp.logsumexp(x), xp.pick(x, np.array([2]))

    silu, relu, leaky, total, third = apply(all_of, {}, x)
    np.testing.assert_allclose(silu, x / (1 + np.exp(-x)), rtol=1e-5)
    np.testing.assert_allclose(relu, np.maximum(x, 0))
    np.testing.assert_allclose(leaky, [[-0.4, 0, 3]], rtol=1e-6)
    np.testing.assert_allclose(total, np.log(np.exp(x).sum(1)), rtol=1e-5)
    np.testing.assert_array_equal(third, [3])


def test_the_device_is_that_of_the_settings(monkeypatch):
    import jax

    asked = []
    devices = jax.local_devices
    monkeypatch.setattr(jax, "local_devices", lambda backend=None: asked.append(backend) or devices(backend=backend))
    for device in ("CPU", "auto", "Ascend"):  # beside an NPU, small models learn on the CPU
        monkeypatch.setattr(cf.settings, "_device", device)
        fit(square, START, all_rows, **OPTIONS)
    assert asked == ["cpu", None, "cpu"]


def test_forked_processes_are_refused_where_they_would_wait_without_end(monkeypatch):
    monkeypatch.setattr("cellfm.engines.fork._threads_are_lost", True)
    with pytest.raises(InputError, match="before this process was forked"):
        fit(square, START, all_rows, **OPTIONS)
    with pytest.raises(InputError, match="before this process was forked"):
        apply(lambda xp, weights: weights["w"], START)
