"""Read the cells of a table for a model: match its genes, and check everything before any work."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from cellfm.cells.counts import require_counts
from cellfm.cells.fingerprint import count_fingerprints, value_fingerprints
from cellfm.cells.input_options import InputOptions
from cellfm.cells.matrix import BLOCK_CELLS, Matrix, read_matrix, require_features
from cellfm.cells.tokenize import TokenBatch, tokenize
from cellfm.cells.values import describe
from cellfm.errors import InputError
from cellfm.genes.hgnc import load_synonyms
from cellfm.genes.match import FEW_CONTRADICTIONS, GeneMatch, find_genes, require_genes
from cellfm.genes.vocabulary import Vocabulary
from cellfm.io.logging import logger
from cellfm.io.messages import counted, counted_of, joined, warn

_SHOWN = 3  # names in a message


class Identified(Protocol):
    """What the record of a run keeps about a model."""

    @property
    def vocab(self) -> Vocabulary: ...
    @property
    def name(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def weights_hash(self) -> str: ...


@dataclass(frozen=True)
class CellInput:
    """Checked cells, in terms of a model's genes."""

    counts: Matrix
    """Counts of all measured genes."""
    match: GeneMatch
    """The model's id of each of these genes."""
    values: Matrix | None = None
    """The user's values, which replace log1p of counts per 10,000."""

    def tokens(
        self, max_genes: int, random_state: int, *, n_cells: int = BLOCK_CELLS, of: slice | None = None
    ) -> Iterator[tuple[slice, TokenBatch]]:
        """Cells in order, in blocks of `n_cells`: all cells, or those of a span."""
        for span, block, own in self._blocks(n_cells, of):
            yield span, tokenize(block, self.match.ids, max_genes=max_genes, random_state=random_state, values=own)

    def known_tokens(
        self, max_genes: int, random_state: int, *, of: slice | None = None
    ) -> Iterator[tuple[slice, TokenBatch, np.ndarray]]:
        """As `tokens`, with the fingerprint of each cell, which another thread computes at the same time."""
        with ThreadPoolExecutor(1, thread_name_prefix="cellfm-fingerprint") as pool:
            for span, block, own in self._blocks(BLOCK_CELLS, of):
                waiting = pool.submit(self._fingerprints, block, own)
                found = tokenize(block, self.match.ids, max_genes=max_genes, random_state=random_state, values=own)
                yield span, found, waiting.result()

    def fingerprints(self, of: slice | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """Fingerprints of the cells' input to the model, in blocks; see `cells.fingerprint`."""
        for span, block, own in self._blocks(BLOCK_CELLS, of):
            yield span, self._fingerprints(block, own)

    def _blocks(
        self, n_cells: int, of: slice | None
    ) -> Iterator[tuple[slice, sp.csr_matrix, sp.csr_matrix | np.ndarray | None]]:
        """Cells in order: their span, their counts, and the user's values if there are any."""
        for span, block in self.counts.blocks(n_cells, of):
            if self.values is not None:
                _check_block(block, self.counts.name)
            yield span, block, None if self.values is None else _block_values(self.values, span)

    def _fingerprints(self, block: sp.csr_matrix, own: sp.csr_matrix | np.ndarray | None) -> np.ndarray:
        if own is None:
            return count_fingerprints(block, self.match.ids)
        return value_fingerprints(block, self.match.ids) + value_fingerprints(sp.csr_matrix(own), self.match.ids)

    def estimate_tokens(self) -> int:
        """About how many tokens all cells have, from a sample of them."""
        sample = self.counts.sample()
        return round(self.counts.n_cells * sample.nnz / sample.shape[0])

    def take(self, cells: np.ndarray) -> "CellInput":
        """Some of the cells, by number or by a mask, in that order; only for matrices in memory."""

        def rows(matrix: Matrix) -> Matrix:
            return replace(matrix, values=matrix.values[cells])

        return replace(self, counts=rows(self.counts), values=None if self.values is None else rows(self.values))

    def facts(self, model: Identified, random_state: int) -> dict[str, Any]:
        """The facts that a record keeps about the origin of an embedding."""
        return {
            "model": model.name,
            "weights_sha256": model.weights_hash,
            "vocabulary_sha256": model.vocab.hash,
            "precision": model.precision,
            "matrix": self.counts.name,
            "values": None if self.values is None else self.values.name,
            "genes": self.match.column,
            "n_genes_matched": self.match.n_distinct,
            "n_genes": self.match.n_genes,
            "random_state": random_state,
        }


def read_input(adata: AnnData, vocab: Vocabulary, options: InputOptions | None = None) -> CellInput:
    """Find the matrix and the genes, and refuse data that a model cannot read.

    Raises
    ------
    InputError
        No counts, no human genes, too few known genes, values that are not finite or negative.
    MissingKeyError
        No such layer or column.
    """
    options = options or InputOptions()
    counts = read_matrix(adata, options.layer)
    require_features(counts)
    values = None if options.values_layer is None else _own_values(adata, options.values_layer, counts)
    if values is None:
        counts = require_counts(counts, adata)
    match = find_genes(
        counts.var, vocab, gene_key=options.gene_key, synonyms=load_synonyms(options.hgnc), features=counts.features
    )
    if counts.features.note:
        warn(counts.features.note)
    if values is not None:
        match = _one_row_a_gene(match, counts)
    _check_genes(match, vocab, counts, options.min_known_genes)
    return CellInput(counts, match, values)


def refuse_empty(cells: CellInput) -> None:
    """Refuse cells that express no known gene.

    Raises
    ------
    InputError
        There are such cells.
    """
    known = (cells.match.ids > 0).astype(np.float32)
    empty = np.concatenate([span.start + np.flatnonzero(block @ known == 0) for span, block in cells.counts.blocks()])
    if len(empty):
        raise InputError(
            f"{counted_of(len(empty), cells.counts.n_cells, 'cell', 'expresses', 'express')} no gene that the model "
            f"knows (the first is cell {empty[0]:,}). Remove them, or pass empty_cells='nan'."
        )


def _own_values(adata: AnnData, values_layer: str, counts: Matrix) -> Matrix:
    values = read_matrix(adata, values_layer)
    if values.values.shape != counts.values.shape:
        raise InputError(
            f"{values.name} has shape {values.values.shape}, {counts.name} {counts.values.shape}: they must be equal."
        )
    for matrix in (values, counts):
        found = matrix.describe()
        if found.kind in ("negative", "not finite", "empty"):
            raise InputError(f"{matrix.name} has {found}; with values_layer= it must be finite and not negative.")
    if (found := values.describe()).kind != "log-normalised":
        logger.warning(
            "%s has %s. It replaces log1p of counts per 10,000, and should be on that scale.",
            values.name,
            found,
        )
    return values


def _check_genes(match: GeneMatch, vocab: Vocabulary, counts: Matrix, least: int) -> None:
    require_genes(match, vocab, least, counts.var_name)
    n_genes = match.n_genes
    if match.guess:
        warn(match.guess)
    if len(match.contradictions) > FEW_CONTRADICTIONS * match.contradictions.n_both:
        warn(f"{match.contradictions} Those of {match.contradictions.first} are used; choose with gene_key=.")
    elif len(match.contradictions):
        logger.info("%s Those of %s are used.", match.contradictions, match.contradictions.first)
    if match.n_matched < n_genes / 2:
        warn(
            f"The model knows {match.n_matched:,} of {counted(n_genes, 'gene')} ({match.n_matched / n_genes:.0%}); the "
            "others are left out. cf.pp.check(adata) shows which they are and how many counts they contain."
        )
    repeated = match.repeated()
    if repeated.any():
        n_repeated = counted(int(repeated.sum()), "gene occurs", "genes occur")
        warn(
            f"{n_repeated} more than once under the same name or id ({_added_up(match, repeated)}); their counts are "
            "added up."
        )
    changed = np.flatnonzero(np.isin(match.how, ("restored", "previous", "alias")))
    if len(changed):
        logger.info(
            "%s known by another name than in the data (%s); cf.pp.check(adata) lists them.",
            counted(len(changed), "gene is", "genes are"),
            _listed([f"{match.matched_by[i]} = {vocab.symbols[match.ids[i] - 1]}" for i in changed]),
        )


def _one_row_a_gene(match: GeneMatch, counts: Matrix) -> GeneMatch:
    """Keep, of rows with the same gene, the one that most cells express, because the user's values cannot be summed."""
    repeated = match.repeated()
    rows = np.flatnonzero(np.isin(match.ids, match.ids[repeated]) & (match.ids > 0))
    if not len(rows):
        return match
    # Of rows that as many cells express the one under the symbol itself, then the first.
    rows = rows[np.lexsort((rows, match.how[rows] != "symbol", -counts.n_expressing(rows), match.ids[rows]))]
    left_out = rows[pd.Series(match.ids[rows]).duplicated().to_numpy()]
    taken = {match.ids[row]: row for row in rows[::-1]}
    pairs = [f"{_row(match, taken[match.ids[row]])} and not {_row(match, row)}" for row in left_out]
    n_repeated = counted(len(left_out), "gene occurs", "genes occur")
    warn(
        f"{n_repeated} more than once, and values of values_layer= cannot be added up; the row that most cells express "
        f"is read: {_listed(pairs)}."
    )
    ids, how = match.ids.copy(), match.how.copy()
    ids[left_out], how[left_out] = 0, "none"
    return replace(match, ids=ids, how=how)


def _row(match: GeneMatch, row: int) -> str:
    return f"{match.matched_by[row]} (row {row:,})"


def _added_up(match: GeneMatch, repeated: np.ndarray) -> str:
    """Names of genes that occur more than once."""
    ids = list(dict.fromkeys(match.ids[repeated]))[: _SHOWN + 1]
    return _listed([joined(match.matched_by[match.ids == gene_id]) for gene_id in ids])


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _check_block(block: sp.csr_matrix, name: str) -> None:
    """Check all values of a block, because only a sample of data on disk was checked before."""
    found = describe(block.data)
    if found.kind in ("negative", "not finite"):
        raise InputError(f"{name} has {found}. Nothing was written.")


def _block_values(values: Matrix, span: slice) -> sp.csr_matrix | np.ndarray:
    block = values.values[span.start : span.stop] if values.in_memory else values.rows(span.start, span.stop)
    _check_block(values.only_genes(sp.csr_matrix(block)), values.name)
    return block
