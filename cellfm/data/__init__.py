"""Cells as arrays: kinds of values, tokens, chunks, files. Never an engine."""

from cellfm.data._augment import choose_panel as choose_panel
from cellfm.data._augment import sample_unexpressed as sample_unexpressed
from cellfm.data._augment import thin as thin
from cellfm.data._blocks import sliceable as sliceable
from cellfm.data._blocks import to_csr as to_csr
from cellfm.data._cells import CellTable
from cellfm.data._chunk import (
    CHUNK as CHUNK,
)
from cellfm.data._chunk import (
    Chunks as Chunks,
)
from cellfm.data._chunk import (
    chunk_cells as chunk_cells,
)
from cellfm.data._chunk import (
    chunks_of as chunks_of,
)
from cellfm.data._chunk import (
    depth_values as depth_values,
)
from cellfm.data._chunk import (
    fill_batches as fill_batches,
)
from cellfm.data._features import Features, read_features
from cellfm.data._features import without_genome as without_genome
from cellfm.data._find_10x import locate as locate
from cellfm.data._forms import SAMPLE_CELLS as SAMPLE_CELLS
from cellfm.data._forms import recognise as recognise
from cellfm.data._mask import choose_targets as choose_targets
from cellfm.data._mudata import without_pulling as without_pulling
from cellfm.data._numbers import as_numbers as as_numbers
from cellfm.data._read import cell_format, read_cells
from cellfm.data._read_10x import TenXFolder as TenXFolder
from cellfm.data._read_10x import TenXRows as TenXRows
from cellfm.data._read_10x import open_10x_h5 as open_10x_h5
from cellfm.data._read_anndata import by_elements as by_elements
from cellfm.data._read_anndata import closing as closing
from cellfm.data._recover import (
    ENOUGH_BITS as ENOUGH_BITS,
)
from cellfm.data._recover import (
    ENOUGH_TOGETHER as ENOUGH_TOGETHER,
)
from cellfm.data._recover import (
    Precision as Precision,
)
from cellfm.data._recover import (
    Recovered as Recovered,
)
from cellfm.data._recover import (
    Transform as Transform,
)
from cellfm.data._recover import (
    choose_transform as choose_transform,
)
from cellfm.data._recover import (
    recover as recover,
)
from cellfm.data._recover import (
    stored_precision as stored_precision,
)
from cellfm.data._recover import (
    zero_value as zero_value,
)
from cellfm.data._shards import Corpus
from cellfm.data._storable import name_problem as name_problem
from cellfm.data._storable import require_storable as require_storable
from cellfm.data._text import as_text as as_text
from cellfm.data._tokenize import TokenBatch, tokenize
from cellfm.data._tokenize import mix as mix
from cellfm.data._values import Values, describe
from cellfm.data._values import rounded as rounded
from cellfm.data._write import (
    CELL_SUFFIXES as CELL_SUFFIXES,
)
from cellfm.data._write import (
    PICTURE_SUFFIXES as PICTURE_SUFFIXES,
)
from cellfm.data._write import (
    check_fits as check_fits,
)
from cellfm.data._write import (
    check_writable as check_writable,
)
from cellfm.data._write import (
    write_cells,
)
from cellfm.data._write import (
    write_copy as write_copy,
)

__all__ = [
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
