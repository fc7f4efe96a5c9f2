"""Plots of what the tools stored; nothing is computed here."""

from cellfm.pl._cells import cells

__all__ = ["cells"]
