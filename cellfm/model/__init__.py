"""The model as an object: configuration, vocabulary and weights, on disk and in use."""

from cellfm.model._cellfm import Attended, CellFM, Contributions, Encoded
from cellfm.model._load import load_model, resolve_model

__all__ = ["Attended", "CellFM", "Contributions", "Encoded", "load_model", "resolve_model"]
