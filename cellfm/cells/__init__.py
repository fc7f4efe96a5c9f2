"""Cells as arrays: reading and writing files, recognising counts, tokens. No engine is needed."""

from cellfm.cells.read import cell_format, read_cells
from cellfm.cells.tokenize import TokenBatch, tokenize
from cellfm.cells.values import Values, describe
from cellfm.cells.write import write_cells

__all__ = ["TokenBatch", "Values", "cell_format", "describe", "read_cells", "tokenize", "write_cells"]
