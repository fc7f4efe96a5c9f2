"""CellFM for scverse: embed cells, read genes, annotate, integrate, predict perturbations.

`cf.pp` prepares data, `cf.tl` runs the model, `cf.pl` draws the results and `cf.get` returns them as tables;
`cf.load_model` loads a model, and `cf.train` trains one.
"""

import os
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from cellfm.settings import settings

if TYPE_CHECKING:
    from cellfm import cells, corpus, genes, get, model, pl, pp, tl, train
    from cellfm.model import load_model

os.environ.setdefault("GLOG_v", "3")  # errors only; MindSpore reads it once, at its import
__version__ = version("cellfm")
_LAZY = ("cells", "corpus", "genes", "get", "model", "pl", "pp", "tl", "train")
__all__ = [
    "__version__",
    "cells",
    "corpus",
    "genes",
    "get",
    "load_model",
    "model",
    "pl",
    "pp",
    "settings",
    "tl",
    "train",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use: importing cellfm costs nothing, and MindSpore only comes with the first computation.
    if name in _LAZY:
        return import_module(f"cellfm.{name}")
    if name == "load_model":
        return import_module("cellfm.model").load_model
    raise AttributeError(f"module 'cellfm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
