"""Checks that several processes that train together agree, however they were started."""

import hashlib
from collections.abc import Mapping

import numpy as np

from cellfm.engines import Engine
from cellfm.errors import InputError


def wait_for_all(engine: Engine) -> None:
    """Wait until all processes have reached this point."""
    engine.total(np.ones(1))


def require_well(engine: Engine, refused: Exception | None) -> None:
    """Raise an error in all processes if one of them has one; all must call it.

    Raises
    ------
    Exception
        `refused`, if there is one.
    InputError
        Another process has an error.
    """
    failed = engine.total(np.array([refused is not None], np.float32))
    if refused is not None:
        raise refused
    if failed[0] > 0:
        raise InputError("Another process cannot start training; its message says why.")


def require_same(engine: Engine, facts: Mapping[str, object]) -> None:
    """Check that all processes have the same values; all must call it with the same names."""
    rank, size = engine.join_processes()
    for name, fact in facts.items():
        digest = np.frombuffer(hashlib.sha256(repr(fact).encode()).digest(), np.uint8)
        mine = np.zeros((size, len(digest)), np.float32)
        mine[rank] = digest
        seen = engine.total(mine.ravel()).reshape(size, -1)
        other = np.flatnonzero((seen != seen[0]).any(1))
        if len(other):
            raise InputError(
                f"The processes do not see the same {name}: process {other[0]} of {size} differs from process 0. All "
                "need the same corpus, configuration and run folder, on every machine."
            )
