"""Split cells into training, validation and test, at random or by leaving out a group."""

from dataclasses import dataclass

import numpy as np

from cellfm.errors import InputError
from cellfm.io.messages import counted

MIN_CELLS = 20
"""Minimum number of cells of each condition, in training and in test."""
VALIDATION = 0.2
"""Share of the training cells used for validation."""


@dataclass(frozen=True)
class Parts:
    """The cells of one condition, by number."""

    fit: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def train(self) -> np.ndarray:
        """Cells of fit and validation."""
        return np.sort(np.concatenate([self.fit, self.validation]))


def split_cells(
    conditions: dict[str, np.ndarray], held_out: np.ndarray | None, *, test_fraction: float, random_state: int
) -> dict[str, Parts]:
    """Split the cells of each condition.

    Parameters
    ----------
    conditions
        The cells of each condition, by number.
    held_out
        (n_cells,) bool: the test cells; None for a random `test_fraction`.

    Raises
    ------
    InputError
        Fewer than 20 cells of a condition for training or for test.
    """
    generator = np.random.default_rng(random_state)
    found = {}
    for name, cells in conditions.items():
        order = generator.permutation(cells)
        n_test = round(test_fraction * len(cells))
        is_test = np.arange(len(cells)) < n_test if held_out is None else held_out[order]
        train, test = order[~is_test], order[is_test]
        for part, left in (("training", train), ("test", test)):
            if len(left) < MIN_CELLS:
                are_left = counted(len(left), f"cell of {name!r} is", f"cells of {name!r} are")
                raise InputError(
                    f"{are_left} left for {part}, and {MIN_CELLS} are needed: "
                    + ("pass more cells or another test_fraction." if held_out is None else "leave another group out.")
                )
        n_validation = max(2, round(VALIDATION * len(train)))
        parts = (train[n_validation:], train[:n_validation], test)
        found[name] = Parts(*(np.sort(part) for part in parts))
    return found
