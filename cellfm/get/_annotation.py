"""`cf.get.annotation`: labels of cells, with confidence and distance."""

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfm.cells.outputs import run_record
from cellfm.cells.select import select
from cellfm.errors import MissingKeyError
from cellfm.io.arguments import checked
from cellfm.io.docstrings import shared_docs
from cellfm.keys import ANNOTATION


@shared_docs
@checked
def annotation(data: AnnData | MuData, *, probabilities: bool = False, modality: str = "rna") -> pd.DataFrame:
    """Get the labels from `cf.tl.annotate` or `cf.tl.transfer_labels`, with a row for each cell.

    Parameters
    ----------
    data
        Labelled cells.
    probabilities
        Add a column with the probability of each class.
    {modality}

    Returns
    -------
    DataFrame, a row for each cell: ``label`` (``"Unknown"`` where it was rejected), ``raw_label``, ``confidence`` (0 to
    1), ``distance`` (to the reference), and a column for each class with `probabilities`.

    Raises
    ------
    MissingKeyError
        The cells have no labels from cellfm.

    Examples
    --------
    >>> cf.tl.transfer_labels(query, reference, labels_key="cell_type")
    >>> list(cf.get.annotation(query))
    ['label', 'raw_label', 'confidence', 'distance']
    """
    adata = select(data, modality)
    columns = {
        "label": ANNOTATION.label,
        "raw_label": ANNOTATION.raw,
        "confidence": ANNOTATION.confidence,
        "distance": ANNOTATION.distance,
    }
    missing = [key for key in columns.values() if key not in adata.obs]
    classes = run_record(adata, ANNOTATION.proba, "obsm").get(ANNOTATION.classes)
    if missing or ANNOTATION.proba not in adata.obsm or classes is None:
        raise MissingKeyError("These cells have no labels: call cf.tl.annotate or cf.tl.transfer_labels first.")
    table = pd.DataFrame({name: adata.obs[key] for name, key in columns.items()}, index=adata.obs_names)
    if not probabilities:
        return table
    of_classes = pd.DataFrame(np.asarray(adata.obsm[ANNOTATION.proba]), adata.obs_names, list(map(str, classes)))
    return pd.concat([table, of_classes], axis=1)
