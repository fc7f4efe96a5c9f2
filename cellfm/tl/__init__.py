"""Tools: run the model and write what it says to AnnData."""

from cellfm.tl._embed import embed

__all__ = ["embed"]
