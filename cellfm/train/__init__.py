"""Training: `write_shards` turns files of cells into a corpus, `pretrain` trains a model on a corpus."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellfm.corpus._write import write_shards
    from cellfm.train._finetune import finetune
    from cellfm.train._plan import plan
    from cellfm.train._pretrain import pretrain

__all__ = ["finetune", "plan", "pretrain", "write_shards"]

# Loaded on first use, so that shards are written without an engine.
_LAZY = {
    "finetune": "cellfm.train._finetune",
    "plan": "cellfm.train._plan",
    "pretrain": "cellfm.train._pretrain",
    "write_shards": "cellfm.corpus._write",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'cellfm.train' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
