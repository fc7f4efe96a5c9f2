"""The cells that methods are tried on: checked, embedded once, normalised for the baselines."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from cellfm._encode import CellInput, read_cells_for, refuse_empty, stored_or_new_embedding
from cellfm._genes import MIN_KNOWN_GENES
from cellfm.errors import InputError
from cellfm.model import CellFM
from cellfm.tasks.annotation._baselines import log_normalised


@dataclass(frozen=True)
class Subjects:
    """Cells with labels, in every form that a method asks for."""

    model: CellFM
    cells: CellInput
    labels: np.ndarray
    """(n_cells,) str."""
    embedding: np.ndarray
    """(n_cells, d_model) float32: by `model`."""
    values: sp.csr_matrix
    """(n_cells, n_genes): log-normalised, for the baselines."""

    @property
    def has_counts(self) -> bool:
        """Whether the values for the baselines were made of counts."""
        return self.cells.counts.describe().kind == "counts"


def read_subjects(
    adata: AnnData,
    model: CellFM,
    labels: np.ndarray,
    *,
    layer: str | None = None,
    values_layer: str | None = None,
    gene_key: str | None = None,
    hgnc: str | Path | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
    batch_size: int | None = None,
    random_state: int = 0,
) -> Subjects:
    """Check the cells, take their embedding where it is stored, make it where not.

    Raises
    ------
    InputError
        The data are on disk, or are what `cf.tl.embed` refuses, or have cells without any known gene.
    """
    if adata.isbacked:
        raise InputError(
            f"These cells are read many times; load them from {adata.filename} with adata.to_memory() first."
        )
    cells = read_cells_for(
        adata,
        model.vocab,
        layer=layer,
        values_layer=values_layer,
        gene_key=gene_key,
        hgnc=hgnc,
        min_known_genes=min_known_genes,
    )
    refuse_empty(cells)
    embedding = stored_or_new_embedding(adata, model, cells, batch_size=batch_size, random_state=random_state)
    return Subjects(model, cells, labels, embedding, log_normalised(cells.counts))
