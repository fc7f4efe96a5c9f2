"""Cells in memory for training: counts over the vocabulary, validation cells, columns of labels."""

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from cellfm.corpus._pack import pack_cells
from cellfm.errors import MissingKeyError
from cellfm.genes.vocabulary import Vocabulary


@dataclass(frozen=True)
class CellTable:
    """The counterpart of `Corpus` for cells that fit into memory."""

    matrix: sp.csr_matrix
    """(n_cells, n_genes) float32: counts; column j is the gene of id j + 1."""
    vocab: Vocabulary
    validation: np.ndarray
    """(n_cells,) bool: cells that are held out."""
    total: np.ndarray
    """(n_cells,) float32: counts over all measured genes."""
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    """Codes of each column, (n_cells,) int32, -1 where missing."""

    @classmethod
    def from_counts(
        cls,
        counts: sp.csr_matrix,
        gene_ids: np.ndarray,
        vocab: Vocabulary,
        validation: np.ndarray,
        labels: dict[str, np.ndarray] | None = None,
    ) -> "CellTable":
        """Rearrange the columns of a table to those of a vocabulary; depth is capped as for tokens."""
        packed = pack_cells(counts, gene_ids, len(vocab))
        columns = packed.gene_ids.astype(np.int32) - 1
        matrix = sp.csr_matrix((packed.counts.astype(np.float32), columns, packed.indptr), (packed.n_cells, len(vocab)))
        return cls(matrix, vocab, validation, packed.depth, labels or {})

    @property
    def n_cells(self) -> int:
        return self.matrix.shape[0]

    @property
    def columns(self) -> list[str]:
        return list(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Number of expressed genes of each cell."""
        return np.diff(self.matrix.indptr)

    def counts(self, cells: np.ndarray) -> sp.csr_matrix:
        return self.matrix[cells]

    def depth(self, cells: np.ndarray) -> np.ndarray:
        return self.total[cells]

    def codes(self, column: str) -> np.ndarray:
        if column not in self.labels:
            raise MissingKeyError(f"No column {column!r}; available: {', '.join(self.labels) or 'none'}.")
        return self.labels[column]
