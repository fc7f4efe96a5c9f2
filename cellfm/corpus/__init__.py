"""Counts of many cells in shards on disk, which training reads at random."""

from cellfm.corpus._cell_table import CellTable
from cellfm.corpus._corpus import Corpus

__all__ = ["CellTable", "Corpus"]
