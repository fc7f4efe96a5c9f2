"""The target state of a reverse prediction, in terms of a predictor's genes."""

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfm.cells.select import select
from cellfm.errors import InputError, InputTypeError
from cellfm.io.messages import warn
from cellfm.keys import PERTURBATION
from cellfm.tasks._expression import read_expression
from cellfm.tasks.perturbation._predictor import PerturbationPredictor

MIN_GENES = 10
"""With fewer common genes, states cannot be told apart."""
FEW_COMMON = 0.5
"""Share of common genes below which a warning is given."""


def target_change(
    predictor: PerturbationPredictor,
    target: AnnData | pd.Series,
    control: AnnData | pd.Series | None,
    layer: str | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The change of the target from control, and which genes of the predictor the target has, (n_genes,) each.

    Raises
    ------
    InputError
        There are too few common genes, or the values are not finite.
    InputTypeError
        The target is neither AnnData nor a Series.
    """
    profile = _profile(target, layer)
    names = pd.Index(predictor.genes)
    if profile.index.intersection(names).empty:
        names = pd.Index(predictor.symbols)
    common = names.isin(profile.index)
    if common.sum() < MIN_GENES:
        raise InputError(
            f"The target has {int(common.sum())} of the predictor's {len(names):,} genes; {MIN_GENES} are needed. It "
            f"has {', '.join(map(str, profile.index[:5]))} ..., the predictor {', '.join(predictor.genes[:5])} ..."
        )
    if common.sum() < FEW_COMMON * len(names):
        warn(f"The target has {int(common.sum()):,} of the predictor's {len(names):,} genes.")
    start = predictor.profiles.control
    if control is not None:
        start_profile = _profile(control, layer)
        common &= names.isin(start_profile.index)
        if common.sum() < MIN_GENES:
            raise InputError("The control of the target shares too few genes with the target and the predictor.")
        start = start_profile.reindex(names).to_numpy(np.float32)
    change = profile.reindex(names).to_numpy(np.float32) - start
    return np.where(common, change, 0), np.asarray(common)


def _profile(given: AnnData | pd.Series, layer: str | None) -> pd.Series:
    if isinstance(given, pd.Series):
        profile = given.astype(np.float32)
        if not np.isfinite(profile).all():
            raise InputError("The target profile has values that are not finite.")
    elif isinstance(given, AnnData):
        adata = select(given)
        predicted = layer is None and PERTURBATION.change in adata.layers  # of cf.tl.perturb; 0 may be -1e-8
        values = adata.X if predicted else read_expression(adata, layer)
        profile = pd.Series(np.asarray(values.mean(0)).ravel(), index=adata.var_names)
    else:
        raise InputTypeError(
            f"Expected cells (AnnData) or a mean profile (pandas Series by gene), found {type(given).__name__}."
        )
    return profile[~profile.index.duplicated()]
