"""Refuse computations in processes forked after a computation, because they lack the threads of JAX and MindSpore."""

import os
import sys

from cellfm.errors import InputError

_computed = False
"""Whether JAX or MindSpore has begun to compute in this process."""
_threads_are_lost = False
"""Whether one of them had begun before this process was forked."""


def require_threads() -> None:
    """Call before JAX or MindSpore computes: refuses forked processes, in which they would wait forever.

    Raises
    ------
    InputError
        This process was forked from one in which a computation had begun.
    """
    global _computed
    if _threads_are_lost:
        raise InputError(
            "JAX or MindSpore had begun to compute before this process was forked, and would hang in it: their "
            "threads are not forked. Start processes with multiprocessing.get_context('spawn') or 'forkserver', or "
            "with joblib's loky, to which models and annotators can be passed; or fork before the first computation."
        )
    _computed = True


def _remember_parent() -> None:
    global _computed, _threads_are_lost
    others = bool(getattr(sys.modules.get("jax._src.xla_bridge"), "_backends", None))  # JAX in the user's own code
    _threads_are_lost = _threads_are_lost or _computed or others
    _computed = False


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_remember_parent)
