"""Features of genes by name, from AnnData, a table or a model."""

from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.select import select
from cellfm.errors import InputError
from cellfm.model import CellFM, resolve_model
from cellfm.tasks._gene_embedding import static_embedding
from cellfm.tasks.genes._features import gene_table

Features: TypeAlias = AnnData | MuData | pd.DataFrame | CellFM | str | Path


def features_by_name(features: Features, key: str, modality: str) -> pd.DataFrame:
    """Features of genes, finite and not all zero, (n_genes, d); one row per name.

    Raises
    ------
    InputError
        The table contains text, or no gene is left.
    MissingKeyError
        There is no such embedding.
    """
    if isinstance(features, AnnData | MuData):
        table = gene_table(select(features, modality), key)
    elif isinstance(features, pd.DataFrame):
        if not all(pd.api.types.is_numeric_dtype(kind) for kind in features.dtypes):
            raise InputError("The table of features has columns that are not numbers; expected genes x dimensions.")
        table = features.astype(np.float32)
    else:
        model = resolve_model(features)
        table = pd.DataFrame(static_embedding(model, np.arange(1, len(model.vocab) + 1)), index=model.vocab.symbols)
    kept = np.isfinite(table.to_numpy()).all(1) & (table.to_numpy() != 0).any(1) & ~table.index.duplicated()
    if not kept.any():
        raise InputError("No gene has features: all are missing or zero.")
    return table[kept]
