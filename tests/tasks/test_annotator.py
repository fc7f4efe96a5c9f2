"""What an annotator is made of: the head on arrays, calibration, thresholds, distance, votes and held-out cells."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cellfm.tasks.annotation._calibrate import calibrated, fit_temperature, fit_thresholds
from cellfm.tasks.annotation._hold_out import class_weights, hold_out
from cellfm.tasks.annotation._mlp import MLP, PENALTY, LabelledCells, fit_mlp, softmax, weighted_loss
from cellfm.tasks.annotation._reject import MAX_INFLATION, MIN_CELLS_OF_A_CLASS, BatchShift, Reference
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
    losses = history["loss"].dropna()
    assert losses.iloc[-1] < 0.8 * np.log(3)  # that of saying nothing
    assert (losses.diff().dropna() < 0).all()


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
        mlp, _ = fit_mlp(MLP.start(x, 2, n_layers, 0, width=16), labelled(x, kind))
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


@pytest.mark.parametrize("n_layers", [1, 2])
def test_cells_that_do_not_count_are_as_if_they_were_not_there(n_layers):
    x, kind = clouds()
    start, counted = MLP.start(x[:90], 3, n_layers, 0), np.arange(120) < 90
    some, _ = fit_mlp(start, labelled(x, kind, counted.astype(np.float32)))
    only, _ = fit_mlp(start, labelled(x[:90], kind[:90]))
    np.testing.assert_allclose(some.logits(x), only.logits(x), atol=1e-3)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_no_weights_near_by_have_less_loss_and_penalty(n_classes):
    x, kind = clouds(n_classes=n_classes)
    weight = 1 + np.arange(120, dtype=np.float32) % 4
    mlp, history = fit_mlp(MLP.start(x, n_classes, 1, 0), labelled(x, kind, weight))

    def objective(mlp: MLP) -> float:
        return labelled(x, kind, weight).loss(mlp) + PENALTY / 240 * float((mlp.weights[0] ** 2).sum())

    assert history["loss"].iloc[-1] == pytest.approx(objective(mlp), rel=1e-5)
    generator = np.random.default_rng(0)
    for _ in range(10):
        w, b = (array + 0.05 * generator.standard_normal(array.shape) for array in (mlp.weights[0], mlp.biases[0]))
        assert objective(replace(mlp, weights=(w,), biases=(b,))) > objective(mlp)


def test_the_same_seed_gives_the_same_head():
    x, kind = clouds()
    one, two, other = (fit_mlp(MLP.start(x, 3, 2, seed), labelled(x, kind))[0] for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(one.weights, two.weights, strict=True))
    assert (one.weights[0] != other.weights[0]).any()


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


def many_dimensions(n_cells=240, n_classes=4, d=64, seed=0):
    """A reference, and a query of the same classes and spread."""
    generator = np.random.default_rng(seed)
    kind = np.arange(n_cells) % n_classes
    centres = 3 * np.eye(d)[:n_classes]
    x, query = ((generator.standard_normal((n_cells, d)) + centres[kind]).astype(np.float32) for _ in range(2))
    reference = Reference.of(x, kind, n_classes)
    return reference, query, kind, float(np.quantile(reference.distance(query), 0.975))


def rejected(reference, query, kind, threshold):
    most = reference.place(query, kind)[1].thresholds(threshold)
    return reference.distance(query) > most[kind], most / threshold


def test_cells_of_the_same_study_move_no_threshold():
    reference, query, kind, threshold = many_dimensions()
    lost, widened = rejected(reference, query, kind, threshold)
    assert lost.mean() < 0.03
    assert (widened < 1.03).all()
    assert (widened >= 1).all()


def test_classes_that_another_study_displaces_are_kept():
    """Each class in a direction of its own, one of them farther than the others."""
    reference, query, kind, threshold = many_dimensions()
    moved = query + np.array([6, 6, 6, 7], np.float32)[kind][:, None] * np.eye(64, dtype=np.float32)[10 + kind]
    assert all((reference.distance(moved) > threshold)[kind == i].mean() > 0.5 for i in range(4))
    lost, _ = rejected(reference, moved, kind, threshold)
    assert all(lost[kind == i].mean() < 0.12 for i in range(4))


def test_a_type_that_the_reference_lacks_is_rejected_in_this_study_and_in_another():
    reference, query, kind, threshold = many_dimensions()
    of_new = kind == 0  # cells that look like the first class and lie elsewhere
    new = query + 12 * of_new[:, None] * np.eye(64, dtype=np.float32)[30]
    elsewhere = new + 4 * np.eye(64, dtype=np.float32)[10 + kind]
    for cells in (new, elsewhere):
        lost, widened = rejected(reference, cells, kind, threshold)
        assert lost[of_new].mean() > 0.95
        assert lost[~of_new].mean() < 0.05
        assert widened.max() <= MAX_INFLATION


def test_one_class_alone_may_be_a_new_type():
    reference, query, kind, threshold = many_dimensions()
    moved = query + 6 * np.eye(64, dtype=np.float32)[10]
    kept = np.concatenate((np.flatnonzero(kind == 0), np.flatnonzero(kind == 1)[: MIN_CELLS_OF_A_CLASS - 1]))
    _, widened = rejected(reference, moved[kept], kind[kept], threshold)
    np.testing.assert_array_equal(widened, 1)
    _, widened = rejected(reference, moved, kind, threshold)
    assert (widened > 1).all()


def test_classes_with_few_cells_share_the_shift_of_the_others():
    reference, query, kind, threshold = many_dimensions()
    moved = query + 5 * np.eye(64, dtype=np.float32)[10]
    few = np.concatenate((np.flatnonzero(kind != 0), np.flatnonzero(kind == 0)[:5]))
    lost, widened = rejected(reference, moved[few], kind[few], threshold)
    assert widened[0] == widened[1:].min()
    assert not lost[-5:].any()


@given(
    displacement=arrays(float, 5, elements=st.one_of(st.just(np.nan), st.floats(0, 10))),
    spread=st.floats(0.1, 5),
    threshold=st.one_of(st.floats(0, 10), st.just(np.inf)),
)
def test_thresholds_are_never_narrowed_and_never_widened_without_bound(displacement, spread, threshold):
    shift = BatchShift(displacement, np.where(np.isnan(displacement), np.nan, spread))
    found = shift.thresholds(threshold)
    assert found.shape == (5,)
    assert (found >= threshold * (1 - 1e-12)).all()
    assert (found <= MAX_INFLATION * threshold).all()
    order = np.array([3, 1, 4, 0, 2])
    again = BatchShift(displacement[order], shift.spread[order]).thresholds(threshold)
    np.testing.assert_array_equal(again, found[order])


def test_cells_without_a_class_shift_nothing():
    reference, query, kind, threshold = many_dimensions()
    moved = query + 5 * np.eye(64, dtype=np.float32)[10]
    expected = reference.place(moved, kind)[1].thresholds(threshold)
    more, codes = np.vstack((moved, np.full((7, 64), np.nan, np.float32))), np.append(kind, [-1] * 7)
    np.testing.assert_array_equal(reference.place(more, codes)[1].thresholds(threshold), expected)


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
