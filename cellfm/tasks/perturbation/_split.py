"""Split conditions into those for training, validation and test; a condition is never divided."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cellfm.errors import InputError
from cellfm.io.messages import counted
from cellfm.tasks.perturbation._conditions import Condition, name_of

SEEN_GENES = 0.75
"""Share of the perturbed genes that training and validation contain."""
SEEN_DOUBLES = 0.75
"""Share of the pairs of such genes that training and validation contain."""
VALIDATION_KEPT = (0.9, 0.8, 0.7, 0.6)
"""The same two shares for drawing validation from training, tried in turn until validation has enough conditions."""
ENOUGH_TO_CHOOSE = 5
"""Number of validation conditions to aim at, unless it exceeds a quarter of the conditions to draw from."""


@dataclass(frozen=True)
class Split:
    """The perturbed conditions of each part."""

    train: tuple[Condition, ...]
    validation: tuple[Condition, ...]
    test: tuple[Condition, ...]

    @property
    def subgroups(self) -> dict[Condition, str]:
        """The subgroup of each test condition: by how many of its genes training and validation contain."""
        seen = {gene for condition in (*self.train, *self.validation) for gene in condition}
        return {condition: _subgroup(condition, seen) for condition in self.test}

    def part_of(self, condition: Condition) -> str:
        """``"train"``, ``"validation"`` or ``"test"``; empty for any other condition."""
        parts = (("train", self.train), ("validation", self.validation), ("test", self.test))
        return next((name for name, part in parts if condition in part), "")


def simulation_split(conditions: Sequence[Condition], *, random_state: int = 0) -> Split:
    """The split of GEARS (Roohani 2023): a quarter of the perturbed genes never occurs in training.

    Three quarters of the pairs of the other genes are for training; all other pairs and the unseen singles are for
    testing. Validation is drawn from the training part in the same way, with at most nine tenths kept: five conditions
    if there are twenty or more to draw from, and at least one.

    Raises
    ------
    InputError
        There are too few conditions for three parts.
    """
    generator = np.random.default_rng(random_state)
    pool, test = _draw(_checked(conditions), SEEN_GENES, SEEN_DOUBLES, generator)
    return _with_validation(pool, test, generator)


def single_split(conditions: Sequence[Condition], *, random_state: int = 0) -> Split:
    """Test a quarter of the genes that are perturbed alone; pairs are left out.

    Raises
    ------
    InputError
        There are too few singles for three parts.
    """
    generator = np.random.default_rng(random_state)
    singles = [condition for condition in _checked(conditions) if len(condition) == 1]
    pool, test = _draw(_checked(singles), SEEN_GENES, SEEN_DOUBLES, generator)
    return _with_validation(pool, test, generator)


def given_split(part_of: Mapping[Condition, str], *, random_state: int = 0) -> Split:
    """The parts that the user names: ``"train"``, ``"test"`` and optionally ``"validation"`` (``"val"``).

    Raises
    ------
    InputError
        A part has another name, or no condition is left for training.
    """
    names = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
    unknown = sorted({part for part in part_of.values() if part not in names})
    if unknown:
        raise InputError(f"A split has the parts 'train', 'validation' ('val') and 'test', not {', '.join(unknown)}.")
    parts: dict[str, list[Condition]] = {"train": [], "validation": [], "test": []}
    for condition in sorted(part_of):
        if condition:  # control cells belong to every part
            parts[names[part_of[condition]]].append(condition)
    if not parts["validation"]:
        return _with_validation(parts["train"], parts["test"], np.random.default_rng(random_state))
    if not parts["train"]:
        raise InputError("The split leaves no condition for training.")
    return Split(tuple(parts["train"]), tuple(parts["validation"]), tuple(parts["test"]))


def whole_split(conditions: Sequence[Condition], *, random_state: int = 0) -> Split:
    """All conditions for training, except a few that choose the epoch; none for testing.

    Raises
    ------
    InputError
        There is only one condition.
    """
    return _with_validation(list(_checked(conditions, n_min=2)), [], np.random.default_rng(random_state))


def _checked(conditions: Sequence[Condition], n_min: int = 3) -> list[Condition]:
    perturbed = sorted({condition for condition in conditions if condition})
    if len(perturbed) < n_min:
        shown = ", ".join(map(name_of, perturbed)) or "none"
        raise InputError(f"{len(perturbed)} perturbed conditions ({shown}) cannot be split; {n_min} are needed.")
    return perturbed


def _draw(
    conditions: Sequence[Condition], genes_kept: float, doubles_kept: float, generator: np.random.Generator
) -> tuple[list[Condition], list[Condition]]:
    """Divide conditions: kept, and held out, which are those of unseen genes and a share of the pairs of seen genes."""
    genes = sorted({gene for condition in conditions for gene in condition})
    n_kept = min(len(genes) - 1, max(1, round(genes_kept * len(genes))))
    seen = set(generator.permutation(genes)[:n_kept])
    singles = [c for c in conditions if len(c) == 1 and _subgroup(c, seen) != "unseen_single"]
    both = [c for c in conditions if len(c) == 2 and _subgroup(c, seen) == "seen2"]
    order = generator.permutation(len(both))
    kept = {*singles, *(both[i] for i in order[: round(doubles_kept * len(both))])}
    return [c for c in conditions if c in kept], [c for c in conditions if c not in kept]


def _with_validation(pool: list[Condition], test: list[Condition], generator: np.random.Generator) -> Split:
    if len(pool) < 2:
        raise InputError(
            f"The split leaves {counted(len(pool), 'condition')} to train on and to choose the epoch by; two are "
            "needed. Take another random_state, or name the parts in a column of obs."
        )
    enough = min(ENOUGH_TO_CHOOSE, max(1, len(pool) // 4))
    for kept in VALIDATION_KEPT:
        train, validation = _draw(pool, kept, kept, generator)
        if len(validation) >= enough and train:
            break
    if not validation or not train:
        chosen = pool[int(generator.integers(len(pool)))]
        train, validation = [c for c in pool if c != chosen], [chosen]
    return Split(tuple(train), tuple(validation), tuple(test))


def _subgroup(condition: Condition, seen: set[str]) -> str:
    n_seen = sum(gene in seen for gene in condition)
    if len(condition) == 1:
        return "seen_single" if n_seen else "unseen_single"
    return f"seen{n_seen}"
