"""Read query and reference on the same panel: genes that only one of them has measured are left out."""

from dataclasses import replace

import numpy as np
from anndata import AnnData

from cellfm.cells.input import CellInput, read_input
from cellfm.cells.input_options import InputOptions
from cellfm.errors import InputError
from cellfm.genes.vocabulary import Vocabulary
from cellfm.io.logging import logger
from cellfm.io.messages import counted, of_reference, warn


def read_query_and_reference(
    query: AnnData, reference: AnnData, vocab: Vocabulary, options: tuple[InputOptions, InputOptions], *, shared: bool
) -> tuple[CellInput, CellInput]:
    """Read both tables in terms of a model's genes, each by its own options; with `shared`, on their common genes.

    Warns
    -----
    DataWarning
        The two seem to be the same cells.

    Raises
    ------
    InputError, MissingKeyError
        See `read_input` and `on_shared_genes`.
    """
    cells = read_input(query, vocab, options[0])
    with of_reference():
        source = read_input(reference, vocab, options[1])
    if reference is query or (reference.shape == query.shape and reference.obs_names.equals(query.obs_names)):
        warn("The reference seems to be the query itself: cells are labelled by their own labels.")
    if not shared:
        return cells, source
    before = cells.match.n_distinct, source.match.n_distinct
    cells, source = on_shared_genes(cells, source, min_genes=options[0].min_known_genes)
    if (n := cells.match.n_distinct) < max(before):
        logger.info("query and reference share %d genes (of %d and %d); the others are left out.", n, *before)
    return cells, source


def on_shared_genes(query: CellInput, reference: CellInput, *, min_genes: int) -> tuple[CellInput, CellInput]:
    """The same cells without the genes that only one of the two has measured.

    Raises
    ------
    InputError
        They share fewer than `min_genes` genes of the model.
    """
    shared = np.intersect1d(query.match.ids[query.match.ids > 0], reference.match.ids[reference.match.ids > 0])
    if len(shared) < min_genes:
        raise InputError(
            f"Query and reference share only {counted(len(shared), 'gene')} that the model knows (of "
            f"{query.match.n_distinct:,} and {reference.match.n_distinct:,}); at least {min_genes:,} are needed. Pass "
            "min_known_genes= for fewer, or shared_genes=False to use all genes of each."
        )
    return _only(query, shared), _only(reference, shared)


def _only(cells: CellInput, ids: np.ndarray) -> CellInput:
    known = np.where(np.isin(cells.match.ids, ids), cells.match.ids, 0).astype(cells.match.ids.dtype)
    return replace(cells, match=replace(cells.match, ids=known))
