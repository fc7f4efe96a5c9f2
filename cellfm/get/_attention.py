"""`cf.get.attention`: attention scores of genes, with their control."""

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.outputs import run_record
from cellfm.cells.select import select
from cellfm.errors import MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.keys import ATTENTION


@shared_docs
@checked
def attention(
    data: AnnData | MuData, *, reader: str | None = None, key: str = ATTENTION.varm, modality: str = "rna"
) -> pd.DataFrame:
    """Get the score of attention from the cell token, or from a gene, to each gene in each group of cells.

    Parameters
    ----------
    data
        Cells x genes, after `cf.tl.attention`.
    reader
        A gene of the `readers` of `cf.tl.attention`; by default the cell token.
    key
        The `key_added` of `cf.tl.attention`, ``"cellfm_attention"`` by default.
    {modality}

    Returns
    -------
    DataFrame, a row for each gene and group: ``gene``, ``group``, ``score`` (0 to 1) and ``expression``, the control:
    the same ranks by expression alone. Genes without a score are left out; in each group the genes with the highest
    score come first.

    Raises
    ------
    MissingKeyError
        There are no such scores.

    Examples
    --------
    >>> cf.tl.attention(adata, model, groupby="cell_type")
    >>> list(cf.get.attention(adata))
    ['gene', 'group', 'score', 'expression']
    """
    adata = select(data, modality)
    scores = key if reader is None else f"{key}_{reader}"
    control = f"{scores}_expression"
    groups = run_record(adata, key, "varm").get(ATTENTION.groups)
    if scores not in adata.varm or control not in adata.varm or groups is None:
        raise MissingKeyError(
            f"No varm[{scores!r}] with its control; available: {', '.join(map(str, adata.varm)) or 'none'}. Call "
            "cf.tl.attention first."
        )
    names = [str(name) for name in groups]
    values = {"score": np.asarray(adata.varm[scores]), "expression": np.asarray(adata.varm[control])}
    table = pd.DataFrame(
        {
            "gene": np.repeat(adata.var_names.to_numpy(), len(names)),
            "group": pd.Categorical(np.tile(names, adata.n_vars), names),
            **{name: value.ravel() for name, value in values.items()},
        }
    ).dropna()
    return table.sort_values(["group", "score"], ascending=[True, False], ignore_index=True)
