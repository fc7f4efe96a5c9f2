"""`cf.get.runs`: the facts of all runs whose results are stored."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.select import select
from cellfm.io.docstrings import shared_docs
from cellfm.keys import RUN


@shared_docs
def runs(data: AnnData | MuData, *, modality: str = "rna") -> pd.DataFrame:
    """Get the facts of all runs whose results are stored: model, hashes of weights and vocabulary, seeds, versions,
    options.

    Parameters
    ----------
    data
        Cells x genes.
    {modality}

    Returns
    -------
    DataFrame, a row for each key in ``uns["cellfm"]``, a column for each fact (missing if a run does not have it).
    Facts that are arrays or tables are left out.

    Examples
    --------
    >>> cf.tl.embed(adata)
    >>> cf.get.runs(adata).loc["X_cellfm", "model"]
    'mini'
    """
    stored = select(data, modality).uns.get(RUN, {})
    records = stored if isinstance(stored, Mapping) else {}
    facts = {
        key: {name: fact for name, fact in record.items() if not isinstance(fact, np.ndarray | pd.DataFrame | Mapping)}
        for key, record in records.items()
        if isinstance(record, Mapping)
    }
    return pd.DataFrame.from_dict(facts, orient="index")
