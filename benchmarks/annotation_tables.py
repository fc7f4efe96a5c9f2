"""The tables of `benchmarks.annotation_heads`, from the rows that it has measured."""

from collections.abc import Callable
from functools import partial

import pandas as pd

from cellfm.tasks.annotation._methods import LOGISTIC_REGRESSION

BASE = "logistic regression"
SAME_HEAD = "the same head on PCA"
SHOWN = ("knn", "knn-pca", "knn-hvg", "frozen", "frozen-pca", "frozen-hvg")
METHODS = (LOGISTIC_REGRESSION, "celltypist", *SHOWN, "frozen-2", "frozen-3", "query", "lora", "full")
THRESHOLDS = ("own", "factor", "class")
FEW = ("pbmc4k", "hao", "breast", "pdac", "melanoma, CD8 states")
"""Sets on which methods that take long are run, too."""
LABELLED = (*FEW, "kang", "pancreas", "scmix", "pbmc3k", "crc", "pbmc_facs", "pbmc_facs, CD4 subsets")
_TESTED_ON = [
    *[("pbmc4k", "hao"), ("breast", "pdac"), ("breast", "crc")],
    *[("pbmc4k", "kang"), ("pbmc4k", "pbmc_facs"), ("pbmc4k", "pbmc3k"), ("hao", "kang"), ("hao", "pbmc_facs")],
]
_CHOSEN_ON = [("pbmc_facs", "pbmc3k"), ("pbmc_facs", "ding"), ("pbmc3k", "ding"), ("kang", "pbmc3k")]
CHOSEN_ON, TESTED_ON = ([pair for a, b in pairs for pair in ((a, b), (b, a))] for pairs in (_CHOSEN_ON, _TESTED_ON))
"""Reference and query, both ways: the pairs that the rule of rejection was chosen on, and the others."""
TESTED = {f"{a} -> {b}" for a, b in TESTED_ON}
BATCH_SIZE = 64
TRAINED = 0.85  # share of the training cells that is not kept for validation
SCORES = ("accuracy", "macro_f1", "weighted_f1")


def labels(rows: pd.DataFrame, of: tuple[str, ...]) -> str:
    """Scores of each set and method, mean and spread over folds and seeds, and the difference to the same head on PCA.

    The difference is over the folds that both were run on.
    """
    rows = _part(rows, "labels")
    if rows.empty:
        return ""
    rows = rows[rows["set"].isin(of)]
    where = ["seed", "fold"]
    lines = []
    for name in of:
        in_set = rows[rows["set"] == name]
        for method, group in in_set.groupby("method", sort=False):
            same = in_set[in_set["method"] == f"{method}-pca"].set_index(where)[list(SCORES)]
            gap = (group.set_index(where)[list(SCORES)] - same).dropna()
            beside = f"{_signed(gap['accuracy'])} / {_signed(gap['macro_f1'])}" if len(gap) else ""
            called = group["called"].iloc[0].replace(LOGISTIC_REGRESSION, BASE)
            scores = [_percent(group[score]) for score in SCORES]
            lines.append([name, called, str(len(group)), *scores, beside, f"{group['seconds'].median():.1f}"])
    difference = f"difference to {SAME_HEAD} (points)"
    header = ["set", "method", "fits", "accuracy", "macro F1", "weighted F1", difference, "seconds per fit"]
    return _markdown(header, lines)


def across(rows: pd.DataFrame) -> str:
    """Accuracy in per cent on another study, for the kinds that the reference has."""
    rows = _part(rows, "across")
    if rows.empty:
        return ""
    methods = [m for m in (LOGISTIC_REGRESSION, *SHOWN) if m in set(rows["method"])]
    table = (rows.pivot_table(index="set", columns="method", values="accuracy", sort=False) * 100)[methods].dropna()
    lines = [[name, *(f"{value:.1f}" for value in line)] for name, line in table.iterrows()]
    lines.append([f"**mean of {len(table)}**", *(f"**{value:.1f}**" for value in table.mean())])
    return _markdown(["reference -> query", *(m.replace(LOGISTIC_REGRESSION, BASE) for m in methods)], lines)


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
    """Means over the types of each set, left out in turn; the spread is over types."""
    rows = _part(rows, "unknowns")
    if rows.empty:
        return ""
    columns = ["auroc_confidence", "auroc_distance", "auroc_both", "unknown_rejected", "known_rejected"]
    lines = []
    for (name, method), group in rows.groupby(["set", "method"], sort=False):
        scores = [f"{_two(group[c].mean())}" + _spread(group[c]) for c in columns]
        lines.append([name, method.replace(LOGISTIC_REGRESSION, BASE), str(group["left_out"].nunique()), *scores])
    return _markdown(["set", "method", "types", *(column.replace("_", " ") for column in columns)], lines)


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
    """Shares rejected on the vote of the model, by three thresholds: pairs, then means over both groups of pairs."""
    rows = _part(rows, "studies")
    if rows.empty:
        return ""
    lines = []
    of_model = rows[(rows["method"] == "model") & (rows["left_out"] == "")]
    tested = of_model["set"].isin(TESTED)
    for title, group in (("tested on", of_model[tested]), ("chosen on", of_model[~tested])):
        for _, r in group.iterrows():
            shares = [_two(r[f"{who}_{by}"]) for who in ("known", "unknown") for by in THRESHOLDS]
            lost = " / ".join(str(int(r[f"lost_{by}"])) for by in THRESHOLDS) + f" of {int(r['n_classes'])}"
            lines.append([title, r["set"], *shares, lost])
    for features in ("model", "pca"):
        for title in ("tested on", "chosen on"):
            of = rows[(rows["method"] == features) & (rows["set"].isin(TESTED) == (title == "tested on"))]
            whole, less = of[of["left_out"] == ""], of[of["left_out"] != ""]
            if of.empty:
                continue
            lost = " / ".join(str(int(whole[f"lost_{by}"].sum())) for by in THRESHOLDS)
            means = [f"**{whole[f'known_{by}'].mean():.2f}**" for by in THRESHOLDS]
            found = [f"**{less[f'unknown_{by}'].mean():.2f}**" for by in THRESHOLDS]
            called = f"**{features}: {len(whole)} pairs; {len(less)} with a type left out**"
            lines.append([title, called, *means, *found, f"{lost} of {int(whole['n_classes'].sum())}"])
    header = [f"{who} rejected, {by}" for who in ("known", "unknown") for by in ("own", "one factor", "by class")]
    return _markdown(["", "reference -> query", *header, "classes lost"], lines)


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
        return column.map(lambda name: METHODS.index(name) if name in METHODS else len(METHODS))

    return rows.sort_values(["set", "method"], key=place, kind="stable")


def _percent(values: pd.Series) -> str:
    spread = f" ± {values.std() * 100:.1f}" if len(values) > 1 else ""
    return f"{values.mean() * 100:.1f}{spread}"


def _signed(gap: pd.Series) -> str:
    return f"{gap.mean() * 100:+.1f}"


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
    "Labels": partial(labels, of=LABELLED),
    "Labels of another study": across,
    "Time of an epoch": epochs,
    "Unknown types": unknowns,
    "Panels": panels,
    "Other studies": studies,
    "Time of a frozen head": seconds,
}
