"""Plots of what the tools stored; nothing is computed here."""

from cellfm.pl._cells import cells
from cellfm.pl._corpus import corpus

__all__ = ["cells", "corpus"]
