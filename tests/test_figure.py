"""Names beside points cover neither each other nor leave the axes, where there is room."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from cellfm._figure import name_points


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
