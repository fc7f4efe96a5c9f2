"""Read cells for a fitted map: select its genes, and embed the cells if the space needs it."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfm.cells.input import read_input, refuse_empty
from cellfm.cells.input_options import InputOptions
from cellfm.cells.matrix import read_matrix
from cellfm.errors import InputError
from cellfm.io.messages import counted_of
from cellfm.model._embed import stored_or_new_embedding
from cellfm.tasks._expression import read_expression
from cellfm.tasks.transport._model import TransportModel


@dataclass(frozen=True)
class Given:
    """The input of a map."""

    x: np.ndarray
    """(n_cells, d) the input of its space."""
    values: np.ndarray
    """(n_cells, n_genes) float32: log-normalised expression of the genes that it predicts."""


def read_given(
    transport: TransportModel,
    adata: AnnData,
    options: InputOptions,
) -> Given:
    """Read cells for a map.

    Raises
    ------
    InputError
        Genes of the fit are not measured, names of genes occur twice, or the values do not suit the space.
    MissingKeyError
        No such layer or column.
    """
    matrix = read_matrix(adata, options.layer)
    names = matrix.var.index.astype(str)[matrix.is_gene]
    if not names.is_unique:
        raise InputError("Gene names occur more than once: call adata.var_names_make_unique() first.")
    places = names.get_indexer(pd.Index(transport.genes))
    if missing := [gene for gene, place in zip(transport.genes, places, strict=True) if place < 0]:
        raise InputError(
            f"{counted_of(len(missing), len(transport.genes), 'gene')} not in the data, such as "
            f"{', '.join(missing[:5])}. Pass cells with the genes that the model was fitted to."
        )
    values = read_expression(adata, options.layer)[:, np.flatnonzero(matrix.is_gene)[places]].toarray()
    if transport.model is None:
        return Given(values, values)
    cells = read_input(adata, transport.model.vocab, options)
    refuse_empty(cells)
    return Given(stored_or_new_embedding(adata, transport.model, cells), values)
