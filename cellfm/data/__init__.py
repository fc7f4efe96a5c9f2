"""Cells as arrays: kinds of values, tokens, chunks, files. Never MindSpore."""

from cellfm.data._chunk import CHUNK, Chunks, chunk_cells, chunks_of, fill_batches
from cellfm.data._tokenize import TokenBatch, tokenize
from cellfm.data._values import Values, describe

__all__ = [
    "CHUNK",
    "Chunks",
    "TokenBatch",
    "Values",
    "chunk_cells",
    "chunks_of",
    "describe",
    "fill_batches",
    "tokenize",
]
