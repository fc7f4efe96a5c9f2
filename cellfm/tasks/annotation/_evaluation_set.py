"""The cells on which methods are compared: checked, embedded once, normalised for the baselines."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from cellfm.cells.input import CellInput, read_input, refuse_empty
from cellfm.cells.input_options import InputOptions
from cellfm.errors import InputError
from cellfm.genes.match import MIN_KNOWN_GENES
from cellfm.model import CellFM
from cellfm.model._embed import stored_or_new_embedding
from cellfm.tasks.annotation._features import (
    GENES,
    MODEL,
    Features,
    component_features,
    gene_features,
    log_normalised,
)
from cellfm.tasks.annotation._split import Fold


@dataclass(frozen=True)
class EvaluationSet:
    """Labelled cells, in every form that a method needs."""

    model: CellFM
    cells: CellInput
    labels: np.ndarray
    """(n_cells,) str."""
    embedding: np.ndarray
    """(n_cells, d_model) float32: by `model`."""
    values: sp.csr_matrix
    """(n_cells, n_genes): log-normalised, for the baselines."""
    groups: np.ndarray | None = None
    """(n_cells,) str: donors or batches, by which ``"auto"`` splits its training cells."""
    _last: dict[str, tuple[Fold, int, Features]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Features of the last fold, which several heads read."""

    @property
    def has_counts(self) -> bool:
        """Whether the values for the baselines were made of counts."""
        return self.cells.counts.describe().kind == "counts"

    def groups_of(self, rows: np.ndarray) -> np.ndarray | None:
        """The groups of some cells; None where there are no two of them."""
        groups = None if self.groups is None else self.groups[rows]
        return None if groups is None or len(np.unique(groups)) < 2 else groups

    def features(self, name: str, fold: Fold, *, random_state: int = 0) -> Features:
        """The input of heads for the cells of a fold; baselines are fitted to its training cells only.

        Parameters
        ----------
        name
            `MODEL`: the model's embedding. `GENES`: variable genes. `COMPONENTS`: their principal components.
        """
        if name == MODEL:
            return Features(self.embedding[fold.train], self.embedding[fold.test])
        if (last := self._last.get(name)) is not None and last[0] is fold and last[1] == random_state:
            return last[2]
        if name == GENES:
            made = gene_features(self.values[fold.train], self.values[fold.test])
        else:
            made = component_features(self.features(GENES, fold, random_state=random_state), random_state=random_state)
        self._last[name] = fold, random_state, made
        return made


def read_subjects(
    adata: AnnData,
    model: CellFM,
    labels: np.ndarray,
    *,
    layer: str | None = None,
    values_layer: str | None = None,
    gene_key: str | None = None,
    hgnc: str | Path | bool | None = None,
    min_known_genes: int = MIN_KNOWN_GENES,
    batch_size: int | None = None,
    random_state: int = 0,
    groups: np.ndarray | None = None,
) -> EvaluationSet:
    """Check the cells, and use their stored embedding or compute it.

    Raises
    ------
    InputError
        The data are on disk, or are what `cf.tl.embed` refuses, or have cells without any known gene.
    """
    if adata.isbacked:
        raise InputError(
            f"These cells are read many times; load them from {adata.filename} with adata.to_memory() first."
        )
    cells = read_input(
        adata,
        model.vocab,
        InputOptions(
            layer=layer, values_layer=values_layer, gene_key=gene_key, hgnc=hgnc, min_known_genes=min_known_genes
        ),
    )
    refuse_empty(cells)
    embedding = stored_or_new_embedding(adata, model, cells, batch_size=batch_size, random_state=random_state)
    return EvaluationSet(model, cells, labels, embedding, log_normalised(cells.counts), groups)
