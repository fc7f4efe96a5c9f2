"""Learning: `write_shards` makes a corpus of files of cells, `pretrain` makes a model of a corpus."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellfm.train._finetune import finetune
    from cellfm.train._plan import plan
    from cellfm.train._pretrain import pretrain
    from cellfm.train._shard import write_shards

__all__ = ["finetune", "plan", "pretrain", "write_shards"]

# Loaded on first use, so that shards are written without an engine.
_LAZY = {
    "finetune": "_finetune",
    "plan": "_plan",
    "pretrain": "_pretrain",
    "write_shards": "_shard",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"cellfm.train.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'cellfm.train' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
