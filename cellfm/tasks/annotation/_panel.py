"""Query and reference on the same panel of genes: what one of them has not measured, neither shows the model."""

from dataclasses import replace

import numpy as np

from cellfm.errors import InputError
from cellfm.io.messages import counted
from cellfm.model._cells import CellInput


def on_shared_genes(query: CellInput, reference: CellInput, *, least: int) -> tuple[CellInput, CellInput]:
    """The same cells without the genes that only one of the two has measured.

    Raises
    ------
    InputError
        They share fewer than `least` genes of the model.
    """
    shared = np.intersect1d(query.match.ids[query.match.ids > 0], reference.match.ids[reference.match.ids > 0])
    if len(shared) < least:
        raise InputError(
            f"Query and reference share only {counted(len(shared), 'gene')} that the model knows (of "
            f"{query.match.n_distinct:,} and {reference.match.n_distinct:,}); at least {least:,} are needed. Pass "
            "min_known_genes= for fewer, or shared_genes=False to use all genes of each."
        )
    return _only(query, shared), _only(reference, shared)


def _only(cells: CellInput, ids: np.ndarray) -> CellInput:
    known = np.where(np.isin(cells.match.ids, ids), cells.match.ids, 0).astype(cells.match.ids.dtype)
    return replace(cells, match=replace(cells.match, ids=known))
