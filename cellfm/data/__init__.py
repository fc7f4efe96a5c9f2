"""Cells as arrays: kinds of values, tokens, chunks, files. Never MindSpore."""

from cellfm.data._chunk import CHUNK, Chunks, chunk_cells, chunks_of, fill_batches
from cellfm.data._read import CELL_SUFFIXES, cell_format, check_writable, read_cells, write_cells
from cellfm.data._tokenize import TokenBatch, tokenize
from cellfm.data._values import Values, describe

__all__ = [
    "CELL_SUFFIXES",
    "CHUNK",
    "Chunks",
    "TokenBatch",
    "Values",
    "cell_format",
    "check_writable",
    "chunk_cells",
    "chunks_of",
    "describe",
    "fill_batches",
    "read_cells",
    "tokenize",
    "write_cells",
]
