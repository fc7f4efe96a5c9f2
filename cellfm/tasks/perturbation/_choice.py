"""Choose the epoch of the network, and the network or a baseline, on validation conditions."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import scipy.stats

from cellfm.tasks.perturbation._baselines import GENE_EFFECTS, NO_CHANGE

SLACK = 1 + 1e-9
"""Factor on thresholds, so that rounding does not carry a difference that equals the threshold beyond it."""
CONFIDENCE = 0.95
"""With which a method must beat the effects of the genes, by a one-sided paired t-test."""


def validation_errors(predicted: np.ndarray, observed: np.ndarray, top: Sequence[np.ndarray]) -> np.ndarray:
    """Squared errors by which predictions are compared, (n_units,).

    The mean over the most changed genes of each condition; with a single condition, of each of these genes.

    Parameters
    ----------
    predicted, observed
        (n_conditions, n_genes) mean profiles.
    top
        The most changed genes of each condition, by number.
    """
    errors = [(p[genes] - o[genes]) ** 2 for p, o, genes in zip(predicted, observed, top, strict=True)]
    return errors[0] if len(errors) == 1 else np.array([error.mean() for error in errors])


def choose_epoch(errors: np.ndarray) -> int:
    """The earliest epoch whose error is at most one standard error above the lowest.

    Parameters
    ----------
    errors
        (n_epochs, n_units) of `validation_errors`, from the epoch before anything is learnt.

    Returns
    -------
    The epoch. Differences to the epoch with the lowest mean error are computed unit by unit, and the standard error is
    that of their mean (Breiman 1984, the one-standard-error rule, paired).
    """
    best = int(errors.mean(1).argmin())
    mean, error = _paired(errors - errors[best])
    return int(np.argmax((mean <= error * SLACK)[: best + 1]))


def choose_method(errors: Mapping[str, np.ndarray]) -> tuple[str, pd.DataFrame]:
    """The default method: the one with the lowest error among those that clearly beat the effects of the genes.

    Parameters
    ----------
    errors
        (n_units,) of `validation_errors` by method, `GENE_EFFECTS` among them.

    Returns
    -------
    The method: ``"gene effects"``, unless the mean error of another is lower by a one-sided paired t-test at 95 %,
    which asks for more if there are few units; predicting no change is never chosen. And a row for each method:
    ``predictor``, ``mse_top20`` (mean error), ``difference`` to the effects of the genes, its ``standard_error``, and
    whether it was ``chosen``.
    """
    names = list(errors)
    table = np.array([errors[name] for name in names])
    mean, error = _paired(table - errors[GENE_EFFECTS])
    n_errors = scipy.stats.t.ppf(CONFIDENCE, max(table.shape[1] - 1, 1))
    beats = (mean < -n_errors * error * SLACK) & (np.array(names) != NO_CHANGE)
    averages = table.mean(1)
    chosen = names[int(np.where(beats, averages, np.inf).argmin())] if beats.any() else GENE_EFFECTS
    found = pd.DataFrame({"predictor": names, "mse_top20": averages, "difference": mean, "standard_error": error})
    return chosen, found.assign(chosen=found["predictor"] == chosen)


def _paired(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over units and its standard error, (n,) each, of (n, n_units) differences."""
    n = differences.shape[1]
    return differences.mean(1), differences.std(1, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(len(differences))
