"""Check batches, and choose the cells for training and validation of an integration."""

import numpy as np

from cellfm.errors import InputError
from cellfm.io.messages import counted_of

VALIDATION_FRACTION = 0.15
MAX_VALIDATION = 300


def require_batches(batches: np.ndarray, key: str) -> None:
    """Refuse batches that cannot be integrated.

    Raises
    ------
    InputError
        There is one batch, or a batch with less than two cells.
    """
    names, counts = np.unique(batches, return_counts=True)
    if len(names) < 2:
        found = f"one: {str(names[0])!r}" if len(names) else "none"
        raise InputError(f"obs[{key!r}] must name two batches or more, but has {found}. There is nothing to integrate.")
    small = names[counts < 2]
    if len(small):
        raise InputError(
            f"{counted_of(len(small), len(names), 'batch', 'has', 'have')} fewer than 2 cells with known genes in "
            f"obs[{key!r}]: "
            f"{', '.join(map(str, small[:5]))}. Leave them out, or merge them with others."
        )


def choose_cells(groups: np.ndarray, n_max: int, *, random_state: int = 0) -> np.ndarray:
    """At most `n_max` cells, in order, with the same share of each group; (n,) int.

    Each group of (n_cells,) `groups` keeps a cell if possible.
    """
    if len(groups) <= n_max:
        return np.arange(len(groups))
    generator = np.random.default_rng(random_state)
    _, codes = np.unique(groups, return_inverse=True)
    place = np.empty(len(groups))  # of each cell within its group, 0 to 1
    for code in range(codes.max() + 1):
        members = np.flatnonzero(codes == code)
        place[generator.permutation(members)] = np.arange(len(members)) / len(members)
    return np.sort(np.argsort(place, kind="stable")[:n_max])


def hold_out(codes: np.ndarray, *, random_state: int = 0) -> np.ndarray:
    """(n,) bool: validation cells, the same share of each batch, at least one and never all of it."""
    share = min(VALIDATION_FRACTION, MAX_VALIDATION / len(codes))
    generator = np.random.default_rng((random_state, 1))
    held_out = np.zeros(len(codes), bool)
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        n = min(len(members) - 1, max(1, round(share * len(members))))
        held_out[generator.permutation(members)[:n]] = True
    return held_out
