"""Cells as arrays: kinds of values, tokens, chunks, files. Never an engine."""

from cellfm.data._augment import choose_panel, sample_unexpressed, thin
from cellfm.data._blocks import sliceable, to_csr
from cellfm.data._cells import CellTable
from cellfm.data._chunk import (
    CHUNK,
    Chunks,
    chunk_cells,
    chunks_of,
    depth_values,
    fill_batches,
)
from cellfm.data._features import Features, read_features, without_genome
from cellfm.data._find_10x import locate
from cellfm.data._forms import SAMPLE_CELLS, recognise
from cellfm.data._mask import choose_targets
from cellfm.data._mudata import without_pulling
from cellfm.data._numbers import as_numbers
from cellfm.data._read import cell_format, read_cells
from cellfm.data._read_10x import TenXFolder, TenXRows, open_10x_h5
from cellfm.data._read_anndata import by_elements, closing
from cellfm.data._recover import (
    ENOUGH_BITS,
    ENOUGH_TOGETHER,
    Precision,
    Recovered,
    Transform,
    choose_transform,
    recover,
    stored_precision,
    zero_value,
)
from cellfm.data._shards import Corpus
from cellfm.data._storable import name_problem, require_storable
from cellfm.data._text import as_text
from cellfm.data._tokenize import TARGET_SUM, TokenBatch, mix, tokenize
from cellfm.data._values import Values, describe, rounded
from cellfm.data._write import (
    CELL_SUFFIXES,
    PICTURE_SUFFIXES,
    check_fits,
    check_writable,
    write_cells,
    write_copy,
)

__all__ = [
    "TARGET_SUM",
    "CellTable",
    "Corpus",
    "Features",
    "TokenBatch",
    "Values",
    "cell_format",
    "describe",
    "read_cells",
    "read_features",
    "tokenize",
    "write_cells",
]
