"""Cells as arrays: tokens, padding, files. NumPy and SciPy only."""

from cellfm.data._chunk import CHUNK, Chunks, chunk_cells, chunks_of, fill_batches
from cellfm.data._tokenize import TokenBatch, tokenize

__all__ = ["CHUNK", "Chunks", "TokenBatch", "chunk_cells", "chunks_of", "fill_batches", "tokenize"]
