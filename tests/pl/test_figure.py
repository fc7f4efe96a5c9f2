"""Names beside points and axes do not cover each other, where there is room; points stay small."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from cellfm.pl._figure import fit_tick_labels, name_points, point_area, shorten, sized


@pytest.fixture
def ax() -> Axes:
    ax = plt.subplots(figsize=(5, 5), layout="constrained")[1]
    ax.set(xlim=(0, 1), ylim=(0, 1))
    yield ax
    plt.close(ax.figure)


def labels(ax: Axes) -> list[Annotation]:
    return [text for text in ax.texts if text.get_text()]


@pytest.mark.parametrize("on_point", [False, True])
def test_names_of_a_crowd_do_not_overlap(ax, on_point):
    points = 0.5 + 0.02 * np.random.default_rng(0).standard_normal((12, 2))
    name_points(ax, points, [f"GENE{i}" for i in range(12)], on_point=on_point, fontsize=7)
    ax.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in labels(ax)]
    assert len(boxes) == 12
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_names_without_room_are_left_out_and_the_first_are_written(ax):
    points = 0.5 + 0.01 * np.random.default_rng(0).standard_normal((80, 2))
    names = [f"A LONG NAME {i}" for i in range(80)]
    name_points(ax, points, names, on_point=True, fontsize=9, bbox={"boxstyle": "round,pad=0.15"})
    ax.figure.draw_without_rendering()
    written = labels(ax)
    assert 8 <= len(written) < 80
    assert [label.get_text() for label in written][:3] == names[:3]
    boxes = [label.get_window_extent() for label in written]
    assert not any(one.shrunk(0.95, 0.9).overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


@pytest.mark.parametrize(("n", "expected"), [(1, 60), (1_000, 20), (1_000_000, 3)])
def test_points_are_smaller_where_there_are_more(n, expected):
    assert point_area(n) == expected
    assert point_area(n, most=10) == min(expected, 10)


def test_a_name_stays_inside_and_near_its_point(ax):
    corners = np.array([[0, 0], [1, 1], [0, 1], [1, 0], [0.5, 0.5]])
    name_points(ax, corners, ["a long name"] * 5, fontsize=8)
    ax.figure.draw_without_rendering()
    for label, anchor in zip(labels(ax), ax.transData.transform(corners), strict=True):
        box = label.get_window_extent()
        assert np.abs((np.array(box.min) + box.max) / 2 - anchor).max() < 100
        assert box.x0 >= ax.bbox.x0 - 1
        assert box.y0 >= ax.bbox.y0 - 1
        assert box.x1 <= ax.bbox.x1 + 1
        assert box.y1 <= ax.bbox.y1 + 1


def test_a_lone_name_is_on_its_point_if_asked(ax):
    name_points(ax, np.array([[0.5, 0.5]]), ["GENE"], on_point=True)
    (label,) = labels(ax)
    assert tuple(label.get_position()) == (0, 0)


def test_the_places_are_the_same_again(ax):
    points = np.random.default_rng(1).random((9, 2))
    found = []
    for _ in range(2):
        name_points(ax, points, list("abcdefghi"))
        found.append([tuple(label.get_position()) for label in labels(ax)])
        for text in list(ax.texts):
            text.remove()
    assert found[0] == found[1]


def visible_boxes(axis) -> list:
    axis.axes.figure.draw_without_rendering()
    return [label.get_window_extent() for label in axis.get_ticklabels() if label.get_visible()]


@pytest.mark.parametrize("n", [2, 20, 60, 400])
def test_tick_labels_stand_apart(ax, n):
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(np.arange(n), [f"type {i} of the atlas" for i in range(n)])
    ax.tick_params(axis="x", rotation=90)
    ax.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    fit_tick_labels(ax.xaxis, ax.yaxis)
    for axis, side in ((ax.xaxis, 0), (ax.yaxis, 1)):
        boxes = visible_boxes(axis)
        assert len(boxes) == n if n <= 20 else len(boxes) >= 10
        assert {label.get_fontsize() >= 5 for label in axis.get_ticklabels()} == {True}
        spans = sorted((box.min[side], box.max[side]) for box in boxes)
        assert all(end < start + 1 for (_, end), (start, _) in itertools.pairwise(spans))


def test_tick_labels_with_room_stay_as_they_are(ax):
    ax.set_yticks(range(3), ["one", "two", ""])
    before = ax.get_yticklabels()[0].get_fontsize()
    fit_tick_labels(ax.yaxis)
    assert {label.get_fontsize() for label in ax.get_yticklabels()} == {before}


def test_long_names_lose_their_middle():
    assert shorten("B cell", 6) == "B cell"
    assert shorten("0123456789", 5) == "01…89"
    assert shorten("0123456789", 6) == "012…89"
    assert len(shorten("CD4-positive, alpha-beta memory T cell, CD45RO-positive", 36)) == 36


def test_points_follow_the_rule_of_scanpy_but_stay_small():
    assert sized({}, 12_000) == {"size": 10}
    assert sized({"alpha": 0.5}, 50) == {"size": 60, "alpha": 0.5}
    assert sized({}, 0) == {"size": 60}
    assert sized({"s": 3}, 50) == {"s": 3}
    assert sized({"size": 3}, 50) == {"size": 3}
