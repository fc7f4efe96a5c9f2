"""Labels for cells of other donors, conditions, technologies, studies and folds: ours, `auto` and simple methods.

    python -m benchmarks annotation --data FOLDER --work FOLDER [--sets kang hao ...] [-o results.json]

Each set has at most `MOST_CELLS` cells. Rows are kept in the folder `--work` one by one, so that a run with the
same weights and code can go on.
"""

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

import cellfm as cf
from benchmarks.annotation_heads import broad
from benchmarks.mini.sets import NOT_USED
from benchmarks.record import facts, save_results
from cellfm.cells.input import read_input
from cellfm.cells.input_options import InputOptions
from cellfm.model import CellFM
from cellfm.model._embed import embed_cells
from cellfm.tasks.annotation._baselines import celltypist_name
from cellfm.tasks.annotation._evaluation_set import EvaluationSet
from cellfm.tasks.annotation._features import COMPONENTS, GENES, log_normalised
from cellfm.tasks.annotation._methods import LOGISTIC_REGRESSION, evaluate
from cellfm.tasks.annotation._metrics import label_scores
from cellfm.tasks.annotation._split import Fold, leave_one_out_folds, random_folds
from cellfm.tasks.annotation._train import train_annotator

MOST_CELLS = 800
MIN_CELLS = 10  # of a label
N_FOLDS = 3
OURS = {"frozen": "ours, frozen", "auto": "ours, auto"}
SIMPLE = {
    "knn-pca": "kNN on PCA",
    "frozen-pca": "head on PCA",
    "frozen-hvg": "head on HVGs",
    LOGISTIC_REGRESSION: "LR on PCA",
    "lr-genes": "LR on genes",
    "correlation": "correlation",
    "ingest": "kNN as ingest",
    "celltypist": "celltypist",
}
"""Methods without a model, as the tables call them.

The vote of `scanpy.tl.ingest`, by Euclidean distance, is computed by scikit-learn: ingest itself fails on fewer than
4,096 cells with the pynndescent that scanpy 1.12 installs.
"""
TARGET = 0.005
NO_LABEL = ("?", "Unassigned", "Doublet", "Negative", "unknown")


@dataclass(frozen=True)
class Cells:
    """A set, and the column whose values are left out; random folds without one."""

    file: str
    split: str
    column: str | None = None
    groups: str | None = None
    """Column by which `auto` splits the training cells, if it is not the same."""
    values: bool = False
    """Values are no counts: the model reads their logarithm."""

    @property
    def seen(self) -> bool:
        """Whether `mini` was trained on these cells."""
        return Path(self.file).name not in NOT_USED


SETS = {
    "hao": Cells("more/pbmc_hao_deconvbench", "donors", "donor"),
    "kang": Cells("kang_ifnb_pbmc", "donors", "donor"),
    "melanoma": Cells("melanoma_tcells_scfeatures", "donors", "donor", values=True),
    "fetal cortex": Cells("more/fetal_cortex_nowakowski_ensdeconv", "donors", "donor", values=True),
    "fetal gonad": Cells("more/fetal_gonad_male_li2017", "donors", "donor", values=True),
    "kang, IFN-beta": Cells("kang_ifnb_pbmc", "condition", "condition", groups="donor"),
    "islets (cepo)": Cells("pancreas_cepo", "technologies", "protocol"),
    "islets (panc8)": Cells("more/pancreas_panc8_small_noindrop", "technologies", "tech", values=True),
    "scmix": Cells("scmix_3cellline", "technologies", "batch"),
    "ding": Cells("pbmc_ding_scannotate", "technologies", "protocol"),
    "cell lines": Cells("celllines_hashing_scds", "technologies", "batch"),
    "pbmc3k": Cells("more/pbmc3k_full", "subtypes"),
    "pbmc4k": Cells("more/pbmc4k_soupx", "subtypes"),
    "pbmc_facs": Cells("pbmc_facs_zheng2017", "subtypes"),
    "breast": Cells("more/breast_tnbc_wu2021_cid4465", "subtypes"),
    "pdac": Cells("more/pancreas_pdac_cardspa", "subtypes"),
    "crc": Cells("crc_tumor_scmetalink", "subtypes"),
}
STUDIES = {
    "blood": ("pbmc_facs", "pbmc3k", "kang", "pbmc4k", "hao"),
    "tumours": ("breast", "pdac", "crc"),
}
"""Studies of a tissue: each is the query once, of all others together and of single ones."""
PAIRS = ("pbmc4k -> hao", "hao -> pbmc_facs", "pbmc3k -> kang", "kang -> pbmc4k", "breast -> crc", "crc -> breast")


def read(data: Path, cells: Cells, most: int = MOST_CELLS) -> ad.AnnData:
    """Cells with labels of `MIN_CELLS` cells or more, and a value of the column."""
    adata = ad.read_h5ad(data / f"{cells.file}.h5ad")
    labels = adata.obs["cell_type"].astype(str)
    kept = ~labels.isin(NO_LABEL) & (labels.map(labels.value_counts()) >= MIN_CELLS)
    for column in filter(None, (cells.column, cells.groups)):
        kept &= adata.obs[column].notna()
    rows = np.flatnonzero(kept)
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:most])
    left = labels.iloc[rows]
    adata = adata[rows[left.map(left.value_counts()) >= N_FOLDS]].copy()
    if cells.values and adata.X.max() > 50:
        adata.X = sp.csr_matrix(adata.X, dtype=np.float32)
        adata.X = sp.csr_matrix(sp.diags(1e4 / np.maximum(np.asarray(adata.X.sum(1)).ravel(), 1)) @ adata.X).log1p()
    return adata


def subjects(model: CellFM, adata: ad.AnnData, labels: np.ndarray, groups: np.ndarray | None, values: bool) -> tuple:
    """The cells that express a gene of the model, and which of all these are."""
    options = InputOptions(min_known_genes=1, values_layer="X" if values else None)
    cells = read_input(adata, model.vocab, options)
    embedding = embed_cells(model, cells)
    there = np.flatnonzero(np.isfinite(embedding[:, 0]))
    on = EvaluationSet(model, cells.take(there), labels[there], embedding[there], log_normalised(cells.counts)[there])
    return replace(on, groups=None if groups is None else groups[there]), there


def of_set(model: CellFM, data: Path, name: str) -> tuple[EvaluationSet, list[Fold]]:
    """A set and its folds: values of the column, donors in three parts, or random folds."""
    cells = SETS[name]
    adata = read(data, cells)
    column = None if cells.column is None else adata.obs[cells.column].astype(str).to_numpy()
    groups = column if cells.groups is None else adata.obs[cells.groups].astype(str).to_numpy()
    on, there = subjects(model, adata, adata.obs["cell_type"].astype(str).to_numpy(), groups, cells.values)
    if column is None:
        return on, random_folds(on.labels, N_FOLDS)
    parts = column[there]
    if cells.split == "donors":
        order = {donor: str(i % N_FOLDS + 1) for i, donor in enumerate(pd.Series(parts).value_counts().index)}
        parts = pd.Series(parts).map(order).to_numpy().astype(str)
    return on, leave_one_out_folds(on.labels, parts)


def of_studies(model: CellFM, data: Path, tissue: str) -> Iterator[tuple[str, str, EvaluationSet, Fold]]:
    """Studies of a tissue by the genes that all have: each as the query of the others, and some pairs."""
    parts = {}
    for name in STUDIES[tissue]:
        part = broad(read(data, SETS[name], MOST_CELLS // 2), name)
        part.obs = part.obs[["kind"]]
        parts[name] = ad.AnnData(part.X, obs=part.obs, var=part.var[[]])
    both = ad.concat(parts, join="inner", label="study", index_unique="-")
    study = both.obs["study"].astype(str).to_numpy()
    on, there = subjects(model, both, both.obs["kind"].astype(str).to_numpy(), study, False)
    study = study[there]
    for fold in leave_one_out_folds(on.labels, study):
        yield "several studies", f"others -> {fold.name}", on, fold
    for pair in PAIRS:
        source, target = pair.split(" -> ")
        if {source, target} <= set(parts):
            train = np.flatnonzero(study == source)
            kinds, sizes = np.unique(on.labels[train], return_counts=True)
            known = np.isin(on.labels, kinds[sizes > 1])
            train, test = (np.flatnonzero(known & (study == name)) for name in (source, target))
            yield "one study", pair, on, Fold(target, train, test)


def predict(method: str, on: EvaluationSet, fold: Fold) -> tuple[np.ndarray, str]:
    """Labels of the test cells, and what `auto` chose."""
    labels = on.labels[fold.train]
    if method == "auto":
        annotator = train_annotator(
            on.model, on.cells.take(fold.train), labels, method="auto", embedding=on.embedding[fold.train],
            groups=on.groups_of(fold.train),
        )  # fmt: skip
        found = annotator.predict_cells(on.cells.take(fold.test), embedding=on.embedding[fold.test])
        return np.array(annotator.classes)[found.codes], annotator.choice.split("'")[1]
    if method == "lr-genes":
        return LogisticRegression(max_iter=300).fit(on.values[fold.train], labels).predict(on.values[fold.test]), ""
    if method == "correlation":
        return by_correlation(on, fold), ""
    if method == "ingest":
        seen = on.features(COMPONENTS, fold)
        return KNeighborsClassifier(15).fit(seen.train, labels).predict(seen.test), ""
    return evaluate(method, on, fold).labels, ""


def by_correlation(on: EvaluationSet, fold: Fold) -> np.ndarray:
    """The class whose mean has the highest Spearman correlation with the cell over variable genes, as in SingleR."""
    seen, labels = on.features(GENES, fold), on.labels[fold.train]
    classes = np.unique(labels)
    means = np.stack([seen.train[labels == name].mean(0) for name in classes])
    ranks = [rankdata(x, axis=1) for x in (seen.test, means)]
    centred = [x - x.mean(1, keepdims=True) for x in ranks]
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9) for x in centred]
    return classes[(unit[0] @ unit[1].T).argmax(1)]


def methods_of(on: EvaluationSet) -> list[str]:
    """Those that can be run: celltypist only if it is installed, and on counts."""
    usable = celltypist_name() is not None and on.has_counts
    return [name for name in (*SIMPLE, *OURS) if name != "celltypist" or usable]


@dataclass(frozen=True)
class Rows:
    """Rows that a run keeps in a file, in which rows of other weights or of another commit do not count."""

    file: Path
    weights: str
    commit: str

    def read(self) -> list[dict]:
        rows = [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []
        return [row for row in rows if row["key"][:2] == [self.weights, self.commit]]

    def add(self, row: dict) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")


def measure(split: str, name: str, seen: str, on: EvaluationSet, fold: Fold, rows: Rows) -> None:
    """Measure what the rows lack of a fold."""
    done = [row["key"] for row in rows.read()]
    for method in methods_of(on):
        key = [rows.weights, rows.commit, split, name, fold.name, method]
        if key in done:
            continue
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            labels, choice = predict(method, on, fold)
        row = {"key": key, "split": split, "set": name, "seen": seen, "fold": fold.name, "method": method}
        row |= {"n_train": len(fold.train), "n_test": len(fold.test), "choice": choice}
        row |= label_scores(on.labels[fold.test], labels) | {"seconds": time.perf_counter() - start}
        rows.add(row)
        print(*key[2:], choice, f"{row['accuracy']:.3f} {row['macro_f1']:.3f} {row['seconds']:.1f} s", flush=True)


def run(model: CellFM, data: Path, names: list[str], rows: Rows) -> None:
    for name in names:
        if name in SETS:
            on, folds = of_set(model, data, name)
            for fold in folds:
                measure(SETS[name].split, name, "yes" if SETS[name].seen else "no", on, fold, rows)
            continue
        for split, pair, on, fold in of_studies(model, data, name):
            of = [SETS[study].seen for study in STUDIES[name] if study in pair or split == "several studies"]
            measure(split, pair, "yes" if all(of) else "in part", on, fold, rows)


def table(results: dict) -> str:
    """Accuracy of each method, mean and spread over folds."""
    return _scores(results, "accuracy")


def macro_f1(results: dict) -> str:
    """The same for macro F1."""
    return _scores(results, "macro_f1")


def verdict(results: dict) -> str:
    """Whether `auto` reached what it was made for, by both scores, and where it did not."""
    lines = []
    for score, called in (("accuracy", "Accuracy"), ("macro_f1", "Macro F1")):
        means = _means(results, score)
        gaps = means["auto"] - means[_simple(means)].max(axis=1)
        below, above = gaps[gaps < -TARGET], gaps[gaps > 0]
        reached = "reached" if below.empty and len(above) >= len(gaps) / 2 else "**not reached**"
        failed = "; ".join(f"{name} ({split}) {100 * gap:+.1f}" for (split, name), gap in below.sort_values().items())
        lines.append(
            f"- {called}: {reached}. `auto` is above the best simple method on {len(above)} of {len(gaps)} splits, and "
            f"more than {100 * TARGET:.1f} points below it on {len(below)}{f': {failed}' if failed else ''}. Mean over "
            f"splits: `auto` {100 * means['auto'].mean():.1f}, `frozen` {100 * means['frozen'].mean():.1f}, the best "
            f"single simple method ({SIMPLE[(best := means[_simple(means)].dropna(axis=1).mean().idxmax())]}) "
            f"{100 * means[best].mean():.1f}."
        )
    means = _means(results, "accuracy")
    means["simple"] = means[_simple(means)].max(axis=1)
    by_kind = 100 * means.groupby(level="split", sort=False)[["auto", "frozen", "simple"]].mean()
    kinds = "; ".join(
        f"{kind} {row['auto']:.1f}, {row['frozen']:.1f}, {row['simple']:.1f}" for kind, row in by_kind.iterrows()
    )
    return "\n".join([*lines, f"- Accuracy of `auto`, `frozen` and the best simple method of each split: {kinds}."])


def choices(results: dict) -> str:
    """How often `auto` chose each candidate, and the seconds of a fit."""
    rows = pd.DataFrame(results["rows"])
    chosen = rows.loc[rows["method"] == "auto", "choice"].value_counts()
    seconds = rows.groupby("method")["seconds"].median()
    names = [name for name in (*SIMPLE, *OURS) if name in seconds]
    of_method = ", ".join(f"{(SIMPLE | OURS)[name]} {seconds[name]:.1f}" for name in names)
    of_candidate = ", ".join(f"`{name}` {n}" for name, n in chosen.items())
    return f"Chosen in {chosen.sum()} folds: {of_candidate}.\n\nSeconds per fit and fold, median: {of_method}."


def _means(results: dict, score: str) -> pd.DataFrame:
    """Splits by methods: means over folds."""
    rows = pd.DataFrame(results["rows"])
    return rows.pivot_table(index=["split", "set"], columns="method", values=score, sort=False)


def _simple(means: pd.DataFrame) -> list[str]:
    return [name for name in SIMPLE if name in means]


def _scores(results: dict, score: str) -> str:
    rows, means = pd.DataFrame(results["rows"]), _means(results, score)
    spread = rows.groupby(["split", "set", "method"], sort=False)[score].std().unstack()  # NaN for a single fold
    seen = rows.groupby(["split", "set"], sort=False)["seen"].first()
    sizes = rows[rows["method"] == "auto"].groupby(["split", "set"], sort=False)["n_test"].agg(["size", "sum"])
    methods = [*_simple(means), *OURS]
    called = [(SIMPLE | OURS)[name] for name in methods]
    header = ["split", "set", "seen by mini", "folds", "cells", *called, "auto − best simple"]
    lines = [header, ["---"] * len(header)]
    for which, row in means.iterrows():
        best = row[methods].max()
        cells = []
        for name in methods:
            text = "" if pd.isna(row[name]) else f"{100 * row[name]:.1f}"
            with_spread = text if not text or pd.isna(s := spread.loc[which, name]) else f"{text} ± {100 * s:.1f}"
            cells.append(f"**{with_spread}**" if row[name] == best else with_spread)
        gap = row["auto"] - row[_simple(means)].max()
        size = sizes.loc[which]
        lines.append([*which, seen[which], str(size["size"]), f"{size['sum']:,}", *cells, f"{100 * gap:+.1f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the .h5ad files")
    parser.add_argument("--work", type=Path, required=True, help="folder for the rows of a run that goes on")
    parser.add_argument("--sets", nargs="+", choices=(*SETS, *STUDIES), default=[*SETS, *STUDIES])
    parser.add_argument("--model", default="mini")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    model = cf.load_model(args.model)
    known = facts(model) | {"most_cells": MOST_CELLS, "seed": 0, "files": {k: v.file for k, v in SETS.items()}}
    rows = Rows(args.work / "annotation.jsonl", known["weights_sha256"], known["commit"])
    run(model, args.data, args.sets, rows)
    found = rows.read()
    for row in found:
        del row["key"]
    save_results("annotation", known | {"rows": found}, args.output)


if __name__ == "__main__":
    main()
