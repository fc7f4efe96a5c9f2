"""Compare predicted and observed profiles of conditions: scores by condition, and tables by subgroup."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cellfm.io.messages import warn
from cellfm.tasks._expression import correlation

N_EXPRESSED = 1000
"""Number of most expressed genes for the distance of Ahlmann-Eltze."""
COLLAPSED = 0.1
"""Warn if predictions vary less between conditions than this share of the observed variation."""
N_BOOTSTRAP = 1000
JUDGED_BY = "pearson_delta"
"""Score by which the best baseline is chosen."""


def score_conditions(
    predicted: np.ndarray, observed: np.ndarray, control: np.ndarray, top: Sequence[np.ndarray]
) -> pd.DataFrame:
    """One row per condition.

    Parameters
    ----------
    predicted, observed
        (n_conditions, n_genes) mean profiles.
    control
        (n_genes,) mean of control.
    top
        The most changed genes of each condition, by number.

    Returns
    -------
    ``mse``, ``pearson_delta`` (correlation of the changes; 0 where none is predicted), ``pearson`` (of the profiles:
    high whatever is predicted), ``wrong_direction`` (share of genes predicted to change the other way), each over all
    genes and ``_top20``; and ``l2_1000``, the distance over the 1000 genes that are most expressed in control.
    """
    expressed = np.argsort(-control, kind="stable")[:N_EXPRESSED]
    rows = []
    for p, o, genes in zip(predicted, observed, top, strict=True):
        row = {}
        for ending, some in (("", slice(None)), ("_top20", genes)):
            d, e = p[some] - control[some], o[some] - control[some]
            row[f"mse{ending}"] = float(np.mean((p[some] - o[some]) ** 2))
            row[f"pearson_delta{ending}"] = correlation(d, e)
            row[f"pearson{ending}"] = correlation(p[some], o[some])
            row[f"wrong_direction{ending}"] = float(np.mean(d * e < 0))
        row["l2_1000"] = float(np.linalg.norm(p[expressed] - o[expressed]))
        rows.append(row)
    return pd.DataFrame(rows)


def summarise(
    scores: pd.DataFrame, *, network: str, n_bootstrap: int = N_BOOTSTRAP, random_state: int = 0
) -> pd.DataFrame:
    """Means by subgroup with intervals, and the difference to the best baseline.

    Parameters
    ----------
    scores
        A row for each predictor and condition: ``predictor``, ``subgroup``, ``condition`` and the metrics.
    network
        The predictor that the others are baselines of.

    Returns
    -------
    DataFrame, a row for each subgroup (and ``all``), predictor and metric: ``n_conditions``, ``mean``, ``low`` and
    ``high`` (95 % of resampled conditions; NaN for a single one), and for the network ``best_baseline`` (by the mean
    of the change's correlation), ``difference`` to it and its interval ``difference_low`` and ``difference_high``,
    over the same resamplings.
    """
    metrics = [column for column in scores if column not in ("predictor", "subgroup", "condition")]
    groups = {"all": scores} | {str(name): part for name, part in scores.groupby("subgroup", sort=True)}
    rows = []
    for subgroup, part in groups.items():
        by = {
            str(name): own.set_index("condition")[metrics].sort_index()
            for name, own in part.groupby("predictor", sort=False)
        }
        others = [name for name in by if name != network]
        best = max(others, key=lambda name: by[name][JUDGED_BY].mean()) if others else None
        n = len(by[network])
        picks = np.random.default_rng(random_state).integers(n, size=(n_bootstrap, n))
        for name, table in by.items():
            for metric in metrics:
                values = table[metric].to_numpy()
                row = {"subgroup": subgroup, "predictor": name, "metric": metric, "n_conditions": n}
                row |= dict(zip(("mean", "low", "high"), _interval(values, picks), strict=True))
                row |= {"best_baseline": "", "difference": np.nan, "difference_low": np.nan, "difference_high": np.nan}
                if name == network and best is not None:
                    found = _interval(values - by[best][metric].to_numpy(), picks)
                    row["best_baseline"] = best
                    row |= dict(zip(("difference", "difference_low", "difference_high"), found, strict=True))
                rows.append(row)
    return pd.DataFrame(rows)


def _interval(values: np.ndarray, picks: np.ndarray) -> tuple[float, float, float]:
    mean = float(values.mean())
    if len(values) < 2:
        return mean, np.nan, np.nan
    low, high = np.quantile(values[picks].mean(1), [0.025, 0.975])
    return mean, float(low), float(high)


def spread_ratio(predicted: np.ndarray, observed: np.ndarray) -> float:
    """Variation of predicted profiles between conditions, relative to that of observed profiles."""
    found, true = (float(np.sqrt(x.var(0, dtype=np.float64).mean())) for x in (predicted, observed))
    return found / true if true > 0 else 1.0


def warn_of_collapse(predicted: np.ndarray, observed: np.ndarray) -> float:
    """Warn if predictions hardly differ between conditions; returns the ratio of the variations."""
    ratio = spread_ratio(predicted, observed) if len(predicted) > 1 else 1.0
    if ratio < COLLAPSED:
        warn(
            f"Predictions hardly differ between the {len(predicted)} conditions: they vary {ratio:.1%} as much as the "
            "observed changes. Treat them as the mean change, and compare the baselines in predictor.evaluation."
        )
    return ratio


def evaluate(
    predictions: Mapping[str, np.ndarray],
    observed: np.ndarray,
    control: np.ndarray,
    top: Sequence[np.ndarray],
    conditions: Sequence[str],
    subgroups: Sequence[str],
) -> pd.DataFrame:
    """`score_conditions` of several predictors, for `summarise`."""
    tables = []
    for name, predicted in predictions.items():
        scores = score_conditions(predicted, observed, control, top)
        tables.append(scores.assign(predictor=name, condition=list(conditions), subgroup=list(subgroups)))
    return pd.concat(tables, ignore_index=True)
