"""What an annotator is made of: the head on arrays, calibration, thresholds, distance, votes and held-out cells."""

import numpy as np
import pytest

from cellfm.tasks.annotation._calibrate import calibrated, fit_temperature, fit_thresholds
from cellfm.tasks.annotation._hold_out import class_weights, hold_out
from cellfm.tasks.annotation._mlp import MLP, LabelledCells, fit_mlp, softmax, weighted_loss
from cellfm.tasks.annotation._reject import LEAST_CELLS_OF_A_CLASS, MOST_SHIFT, Reference, shift_of
from cellfm.tasks.annotation._vote import find_clusters, vote


def clouds(n=120, d=6, n_classes=3, seed=0, apart=2.0):
    """Cells of classes that lie apart in the first dimensions."""
    generator = np.random.default_rng(seed)
    kind = np.arange(n) % n_classes
    x = generator.standard_normal((n, d)) + apart * np.eye(d)[kind]
    return x.astype(np.float32), kind


def labelled(x, kind, weight=None):
    return LabelledCells(x, kind, np.ones(len(kind), np.float32) if weight is None else weight)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_an_mlp_learns_what_can_be_learned(n_layers):
    x, kind = clouds(n=300, apart=4.0)
    mlp, history = fit_mlp(MLP.start(x, 3, n_layers, 0), labelled(x, kind))
    other_x, other_kind = clouds(n=300, apart=4.0, seed=1)
    assert (mlp.logits(other_x).argmax(1) == other_kind).mean() > 0.93
    losses = [loss for _, loss, _ in history]
    assert losses[-1] < 0.8 * losses[0]


def test_one_layer_is_logistic_regression():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, kind = clouds()
    mlp, _ = fit_mlp(MLP.start(x, 3, 1, 0), labelled(x, kind))
    scaler = StandardScaler().fit(x)
    expected = LogisticRegression(C=1 / 30, tol=1e-8, max_iter=1000).fit(scaler.transform(x), kind)
    np.testing.assert_allclose(softmax(mlp.logits(x)), expected.predict_proba(scaler.transform(x)), atol=2e-3)


def test_only_deeper_heads_learn_what_no_line_tells():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((600, 4)).astype(np.float32)
    kind = (x[:, 0] * x[:, 1] > 0).astype(int)
    accuracy = []
    for n_layers in (1, 2):
        mlp, _ = fit_mlp(MLP.start(x, 2, n_layers, 0), labelled(x, kind))
        accuracy.append((mlp.logits(x).argmax(1) == kind).mean())
    assert accuracy[0] < 0.65
    assert accuracy[1] > 0.85


def test_units_and_offsets_of_the_embedding_do_not_matter():
    x, kind = clouds()
    other = x * np.array([1, 10, 100, 0.1, 1, 1], np.float32) + 5
    some, others = (fit_mlp(MLP.start(part, 3, 1, 0), labelled(part, kind))[0].logits(part) for part in (x, other))
    np.testing.assert_allclose(some, others, atol=1e-2)


def test_weights_count_as_copies_do():
    x, kind = clouds(n=60)
    weight = np.where(kind == 0, 2.0, 1.0).astype(np.float32)
    twice = np.concatenate((np.arange(60), np.flatnonzero(kind == 0)))
    start = MLP.start(x, 3, 1, 0)
    by_weight = weighted_loss(start.logits(x) + np.arange(3), kind, weight)
    by_copies = weighted_loss(start.logits(x[twice]) + np.arange(3), kind[twice])
    assert by_weight == pytest.approx(by_copies, rel=1e-5)


def test_gradients_are_those_of_the_loss():
    from cellfm.tasks.annotation._mlp import _flatten, _gradients, _unflatten

    x, kind = clouds(n=30)
    generator = np.random.default_rng(0)
    start = MLP.start(x, 3, 2, 0)
    flat = _flatten([*start.weights, *start.biases])
    flat += 0.3 * generator.standard_normal(len(flat))
    share = generator.random(30).astype(np.float32)
    share /= share.sum()
    inputs = start.standardise(x)
    analytic = _flatten(_gradients(_unflatten(flat, start), inputs, kind, share)[1])
    for i in generator.choice(len(flat), 12, replace=False):
        step = np.zeros(len(flat))
        step[i] = 1e-2
        above, below = (_gradients(_unflatten(flat + s, start), inputs, kind, share)[0] for s in (step, -step))
        assert analytic[i] == pytest.approx((above - below) / 2e-2, abs=2e-3)


def test_balanced_weights_let_every_class_count_the_same():
    kind = np.array([0] * 90 + [1] * 9 + [2])
    weight = class_weights(kind, 3, balanced=True)
    assert weight.mean() == pytest.approx(1)
    np.testing.assert_allclose([weight[kind == i].sum() for i in range(3)], 100 / 3, rtol=1e-5)
    np.testing.assert_array_equal(class_weights(kind, 3, balanced=False), 1)


def test_every_class_trains_and_large_ones_validate():
    kind = np.repeat([0, 1, 2, 3], [100, 20, 3, 2])
    held = hold_out(kind, 0.15, random_state=1)
    np.testing.assert_array_equal([held[kind == i].sum() for i in range(4)], [15, 3, 1, 0])
    np.testing.assert_array_equal(held, hold_out(kind, 0.15, random_state=1))
    assert (held != hold_out(kind, 0.15, random_state=2)).any()
    everything = hold_out(kind, 0.999)
    assert all((~everything[kind == i]).any() for i in range(4))


def test_temperature_makes_confidence_honest():
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((20_000, 4)) * 2
    kind = np.array([generator.choice(4, p=p) for p in softmax(logits)])
    assert fit_temperature(logits * 3, kind) == pytest.approx(3, rel=0.1)
    p = calibrated(logits * 3, fit_temperature(logits * 3, kind))
    assert p.max(1).mean() == pytest.approx((p.argmax(1) == kind).mean(), abs=0.01)


def test_few_cells_do_not_make_boundless_confidence():
    logits = np.array([[2.0, 0.0], [0.0, 2.0]])
    assert 0.5 < fit_temperature(logits, np.array([0, 1])) < 1.5
    assert fit_temperature(np.empty((0, 2)), np.empty(0, int)) == 1.0


@pytest.mark.parametrize("n", [20, 333, 1000])
def test_thresholds_reject_no_more_of_the_known_than_they_say(n):
    generator = np.random.default_rng(n)
    confidence, distance = generator.random(n), generator.random(n)
    shares = []
    for rejected in (0.01, 0.05, 0.2):
        least, most = fit_thresholds(confidence, distance, rejected=rejected)
        shares.append(((confidence < least) | (distance > most)).mean())
        assert shares[-1] <= rejected
    assert shares == sorted(shares)


def test_distance_grows_away_from_the_classes():
    x, kind = clouds(n=300, apart=6.0)
    reference = Reference.of(x, kind, 3)
    near = reference.distance(x)
    far = reference.distance(x + np.array([0, 0, 0, 8, 0, 0], np.float32))
    assert np.median(near) == pytest.approx(1, rel=1e-4)
    assert far.min() > np.median(near)
    steps = [reference.distance(x[:1] + s * np.eye(6, dtype=np.float32)[4])[0] for s in (10, 20, 30)]
    assert steps == sorted(steps)


def test_another_study_moves_every_class_and_a_new_type_only_its_own():
    x, kind = clouds(n=300, apart=6.0)
    distance = Reference.of(x, kind, 3).distance(x)
    assert shift_of(distance, kind) == pytest.approx(1, abs=0.1)
    assert shift_of(0.5 * distance, kind) == 1  # never narrower
    assert shift_of(1.2 * distance, kind) == pytest.approx(1.2, rel=0.1)
    assert shift_of(4 * distance, kind) == MOST_SHIFT  # too far to be told from other cells
    stranger = np.where(kind == 0, 4 * distance, distance)
    assert shift_of(stranger, kind) == pytest.approx(1, abs=0.1)
    few = np.flatnonzero(kind == 1)[:LEAST_CELLS_OF_A_CLASS]
    assert shift_of(4 * distance[few], kind[few]) == 1  # one class may be a new type
    kind[:50], distance[:50] = -1, np.nan  # cells without any known gene
    assert shift_of(1.2 * distance, kind) == pytest.approx(1.2, rel=0.1)


def test_distance_takes_constant_dimensions_and_missing_cells():
    x, kind = clouds()
    x[:, 0] = 1
    reference = Reference.of(x, kind, 3)
    assert np.isfinite(reference.distance(x)).all()
    x[3] = np.nan
    assert np.flatnonzero(np.isnan(reference.distance(x))).tolist() == [3]


def test_a_vote_gives_clusters_one_label_and_leaves_the_rest():
    labels = np.array(["a", "a", "b", "b", "c", "b"], object)
    clusters = np.array(["1", "1", "1", "2", "2", None], object)
    assert vote(labels, clusters).tolist() == ["a", "a", "a", "b", "b", "b"]
    order = np.array([5, 2, 0, 4, 1, 3])
    np.testing.assert_array_equal(vote(labels[order], clusters[order]), vote(labels, clusters)[order])


def test_clusters_are_found_in_the_embedding():
    x, kind = clouds(n=90, apart=40.0)
    x[7] = np.nan
    clusters = find_clusters(x, random_state=0)
    assert clusters[7] is None
    there = np.arange(90) != 7
    assert all(len(set(kind[there & (clusters == name)])) == 1 for name in set(clusters[there]))
    np.testing.assert_array_equal(clusters, find_clusters(x, random_state=0))
