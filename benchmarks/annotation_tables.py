"""The tables of `benchmarks.annotation`, from the rows that it has measured."""

from collections.abc import Callable

import pandas as pd

from cellfm.tasks.annotation._methods import LOGISTIC_REGRESSION

BASE = "logistic regression"
METHODS = ("logistic", "celltypist", "knn", "frozen", "query", "lora", "full")
BATCH_SIZE = 64
TRAINED = 0.85  # share of the training cells that is not kept for validation
SCORES = ("accuracy", "macro_f1", "weighted_f1")


def labels(rows: pd.DataFrame) -> str:
    """Scores of each set and method, mean and spread over folds and seeds, and what lies between it and the baseline.

    The difference is over the folds that both were run on.
    """
    rows = _part(rows, "labels")
    if rows.empty:
        return ""
    lines = []
    where = ["set", "seed", "fold"]
    base = rows[rows["method"] == LOGISTIC_REGRESSION].assign(set=lambda r: r["set"].str.removesuffix(", residuals"))
    base = base.set_index(where)[list(SCORES)] if len(base) else None
    for (name, method), group in rows.groupby(["set", "method"], sort=False):
        cells = [f"{_percent(group[score])}" for score in SCORES]
        same = group.assign(set=name.removesuffix(", residuals")).set_index(where)[list(SCORES)]
        gap = (same - base.reindex(same.index)).mean() * 100 if base is not None else pd.Series(dtype=float)
        beside = "" if method == LOGISTIC_REGRESSION or gap.isna().all() else f"{gap.iloc[0]:+.1f} / {gap.iloc[1]:+.1f}"
        called = group["called"].iloc[0].replace(LOGISTIC_REGRESSION, BASE)
        seconds = f"{group['seconds'].median():.1f}"
        lines.append([name, called, str(len(group)), *cells, beside, seconds])
    header = ["set", "method", "fits", "accuracy", "macro F1", "weighted F1", f"over {BASE} (points)", "s a fit"]
    return _markdown(header, lines)


def epochs(rows: pd.DataFrame) -> str:
    """Time of an epoch of training through the network: the median step, times the steps of an epoch."""
    rows = _part(rows, "labels")
    if "step_seconds" not in rows:
        return ""
    rows = rows[rows["step_seconds"].notna()]
    lines = []
    for (name, method), group in rows.groupby(["set", "method"], sort=False):
        per_cell = group["step_seconds"] / BATCH_SIZE
        epoch = per_cell * group["n_train"] * TRAINED
        n_epochs = group["n_steps"] * BATCH_SIZE / (group["n_train"] * TRAINED)
        lines.append([name, method, str(len(group)), f"{epoch.median():.1f}", f"{n_epochs.median():.1f}"])
    return _markdown(["set", "method", "fits", "s an epoch", "epochs"], lines)


def unknowns(rows: pd.DataFrame) -> str:
    rows = _part(rows, "unknowns")
    if rows.empty:
        return ""
    columns = ["auroc_confidence", "auroc_distance", "auroc_both", "unknown_rejected", "known_rejected"]
    columns = [column for column in columns if column in rows]
    lines = []
    for (label, method), group in rows.groupby(["left_out", "method"], sort=True):
        called = method.replace(LOGISTIC_REGRESSION, BASE)
        lines.append([label, called, *(_two(group[column].mean()) for column in columns)])
    for method, group in rows.groupby("method", sort=True):
        called = method.replace(LOGISTIC_REGRESSION, BASE)
        seeds = group.groupby("seed")[columns].mean()
        spread = [f"{_two(seeds[c].mean())}" + _spread(seeds[c]) for c in columns]
        lines.append(["**mean of all**", called, *spread])
    return _markdown(["left out", "method", *(column.replace("_", " ") for column in columns)], lines)


def panels(rows: pd.DataFrame) -> str:
    rows = _part(rows, "panels")
    if rows.empty:
        return ""
    lines = []
    for name, group in rows.groupby("set", sort=False):
        by = group.set_index("shared_genes")
        if len(by) == 2:
            cells = [
                f"{by.loc[shared, column]:.2f}"
                for column in ("accuracy", "rejected", "distance_over_threshold")
                for shared in (True, False)
            ]
            lines.append([name, *cells])
    if not lines:
        return ""
    means = [f"**{sum(float(line[i]) for line in lines) / len(lines):.2f}**" for i in range(1, 7)]
    header = [f"{what}, {genes}" for what in ("accuracy", "rejected", "distance") for genes in ("shared", "all")]
    return _markdown(["reference -> query", *header], [*lines, ["**mean**", *means]])


def studies(rows: pd.DataFrame) -> str:
    rows = _part(rows, "studies")
    if rows.empty:
        return ""
    columns = [f"{who}_{threshold}" for who in ("known", "unknown") for threshold in ("own", "query")]
    whole, less = rows[rows["left_out"] == ""], rows[rows["left_out"] != ""]
    lines = [
        [r["set"], f"{r['shift']:.2f}", *("" if pd.isna(r[c]) else f"{r[c]:.2f}" for c in columns)]
        for _, r in whole.iterrows()
    ]
    for name, part in (("mean", whole), (f"mean of {len(less)}, a kind left out", less)):
        lines.append([f"**{name}**", f"{part['shift'].mean():.2f}", *(f"**{part[c].mean():.2f}**" for c in columns)])
    header = [
        "shift",
        *(f"{who} rejected, {by}" for who in ("known", "unknown") for by in ("its own", "for the query")),
    ]
    return _markdown(["reference -> query", *header], lines)


def seconds(rows: pd.DataFrame) -> str:
    rows = _part(rows, "time")
    lines = [
        [str(int(r["n_cells"])), f"{r['embedding_seconds']:.0f}", f"{r['seconds']:.0f}"] for _, r in rows.iterrows()
    ]
    return _markdown(["cells", "s embedding", "s in all"], lines)


def _part(rows: pd.DataFrame, part: str) -> pd.DataFrame:
    """The rows of a part, by set and method: baselines first."""
    if rows.empty or part not in set(rows["part"]):
        return pd.DataFrame()
    rows = rows[rows["part"] == part].dropna(axis=1, how="all")

    def place(column: pd.Series) -> pd.Series:
        if column.name != "method":
            return column
        return column.map(lambda name: next(i for i, start in enumerate(METHODS) if name.startswith(start)))

    return rows.sort_values(["set", "method"], key=place, kind="stable")


def _percent(values: pd.Series) -> str:
    spread = f" ± {values.std() * 100:.1f}" if len(values) > 1 else ""
    return f"{values.mean() * 100:.1f}{spread}"


def _two(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.2f}"


def _spread(values: pd.Series) -> str:
    return "" if len(values) < 2 or values.isna().any() else f" ± {values.std():.3f}"


def _markdown(header: list[str], lines: list[list[str]]) -> str:
    if not lines:
        return ""
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


TABLES: dict[str, Callable[[pd.DataFrame], str]] = {
    "Labels": labels,
    "Time of an epoch": epochs,
    "Unknown types": unknowns,
    "Panels": panels,
    "Other studies": studies,
    "Time of a frozen head": seconds,
}
