"""Names of genes: how they are written, where a table holds them, and what is wrong where too few are known."""

from cellfm.genes._panel import panel_limit

__all__ = ["panel_limit"]
