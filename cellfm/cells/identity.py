"""What tells one table of cells from another before any work: its size, its names, and the counts of a few cells."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from anndata import AnnData

from cellfm.cells.matrix import Matrix

_N_SAMPLED = 16


def table_facts(adata: AnnData, counts: Matrix) -> dict[str, str | int]:
    """Number of cells, and hashes of the names of cells and genes and of a few cells."""
    return {
        "n_cells": counts.n_cells,
        "obs_names_sha256": _names_sha256(adata.obs_names),
        "var_names_sha256": _names_sha256(counts.var.index),
        "cells_sha256": cells_sha256(counts),
    }


def cells_sha256(counts: Matrix) -> str:
    """SHA-256 of the counts of a few cells, spread over all."""
    as_stored = replace(counts, as_counts=False)
    digest = hashlib.sha256()
    for i in np.unique(np.linspace(0, counts.n_cells - 1, _N_SAMPLED).astype(int)):
        row = as_stored.rows(i, i + 1)
        digest.update(row.indices.astype(np.int64).tobytes() + row.data.astype(np.float64).tobytes())
    return digest.hexdigest()


def _names_sha256(names: Iterable[object]) -> str:
    return hashlib.sha256("\n".join(map(str, names)).encode()).hexdigest()
