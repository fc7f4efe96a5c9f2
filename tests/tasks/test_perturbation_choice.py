"""Which epoch is kept: the earliest that is not clearly worse than the best."""

import numpy as np
import pytest

from cellfm.tasks.perturbation._choice import choose_epoch


def naive(errors: np.ndarray) -> int:
    means = [sum(row) / len(row) for row in errors]
    least = means.index(min(means))
    for epoch in range(least):
        above = [a - b for a, b in zip(errors[epoch], errors[least], strict=True)]
        mean = sum(above) / len(above)
        error = np.sqrt(sum((x - mean) ** 2 for x in above) / (len(above) - 1) / len(above))
        if mean <= error:
            return epoch
    return least


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_naive_rule(seed):
    generator = np.random.default_rng(seed)
    errors = generator.random((8, 4)) - np.arange(8)[:, None] * generator.random() * 0.2
    assert choose_epoch(errors, start_predicts=True) == naive(errors)


def test_a_gain_on_every_condition_is_taken_and_one_on_a_single_condition_is_not():
    start = np.array([1.0, 1.2, 0.8, 1.1])
    assert choose_epoch(np.array([start, start - 0.5, start - 0.52]), start_predicts=False) == 2
    one_better = start - np.array([2.0, 0, 0, 0])
    assert choose_epoch(np.array([start, one_better]), start_predicts=False) == 0
    assert choose_epoch(np.array([start, start + 0.1, start + 0.2]), start_predicts=False) == 0


def test_one_condition_has_no_spread_and_a_start_that_predicts_is_kept():
    errors = np.array([[3.0], [1.0], [2.0]])
    assert choose_epoch(errors, start_predicts=True) == 0
    assert choose_epoch(errors, start_predicts=False) == 1
