"""`cf.get.runs`: the facts of all runs whose results are stored."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.outputs import is_record
from cellfm.cells.select import select
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.keys import RUN

_COLUMNS = (
    "tool",
    "slot",
    "model",
    "weights_sha256",
    "vocabulary_sha256",
    "precision",
    "random_state",
    "cellfm_version",
)
_LARGE = np.ndarray | pd.DataFrame | Mapping


@shared_docs
@checked
def runs(data: AnnData | MuData, *, modality: str = "rna") -> pd.DataFrame:
    """Get the facts of all runs whose results are stored: tool, model, hashes of weights and vocabulary, seed, version,
    options.

    Parameters
    ----------
    data
        Cells x genes.
    {modality}

    Returns
    -------
    DataFrame, a row for each run, the newest last, named as in ``uns["cellfm"]``: ``tool`` (such as ``"tl.embed"``),
    ``slot`` of the result, ``model``, ``weights_sha256``, ``vocabulary_sha256``, ``precision``, ``random_state`` and
    ``cellfm_version``, missing if the run does not have it; ``facts``, a dict of the other facts except for arrays and
    tables; and ``options``, a dict of the arguments of the tool (empty for results of version 0.1).

    Examples
    --------
    >>> cf.tl.embed(adata)
    >>> cf.get.runs(adata).loc["X_cellfm", "model"]
    'mini'
    """
    stored = select(data, modality).uns.get(RUN, {})
    records = (
        {key: dict(record) for key, record in stored.items() if is_record(record)}
        if isinstance(stored, Mapping)
        else {}
    )
    rows = {}
    for key, record in sorted(records.items(), key=lambda item: int(item[1].get("run", 0))):
        record.setdefault("model", record.pop("name", None))  # of perturbations in version 0.1
        others = record.keys() - {*_COLUMNS, "run", "options"}
        facts = {name: record[name] for name in record if name in others and not isinstance(record[name], _LARGE)}
        columns = {name: record.get(name) for name in _COLUMNS}
        rows[key] = columns | {"facts": facts, "options": dict(record.get("options", {}))}
    table = pd.DataFrame(list(rows.values()), index=list(rows), columns=[*_COLUMNS, "facts", "options"])
    return table.astype({"random_state": "Int64"})
