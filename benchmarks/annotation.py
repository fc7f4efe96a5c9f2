"""Accuracy of annotation on real cells, beside logistic regression: one JSON a fit, resumable; tables as markdown.

python -m benchmarks.annotation --data FOLDER --work FOLDER [--parts labels depth ...] [--seeds 3] [--table]
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import cellfm as cf
from benchmarks.annotation_tables import TABLES
from cellfm._encode import embed_cells, read_cells_for
from cellfm.model import CellFM
from cellfm.tasks.annotation._baselines import celltypist_name, log_normalised
from cellfm.tasks.annotation._methods import LOGISTIC_REGRESSION, judge
from cellfm.tasks.annotation._metrics import class_table, label_scores, rejection_scores
from cellfm.tasks.annotation._neighbors import fit_neighbor_vote
from cellfm.tasks.annotation._panel import on_shared_genes
from cellfm.tasks.annotation._split import Fold, leave_one_out_folds, random_folds
from cellfm.tasks.annotation._subjects import Subjects
from cellfm.train._step import Step

RESIDUALS = "shifted Pearson residuals"
N_FOLDS = 5


@dataclass(frozen=True)
class Cells:
    """A data set and how it is split."""

    file: str
    batch: str | None = None
    """Column of batches that are left out in turn; random folds without."""
    kinds: str | None = None
    """Only labels that contain this."""
    values: str | None = None
    """Layer of values for the model."""


SETS = {
    "pbmc_facs": Cells("pbmc_facs_zheng2017"),
    "kang": Cells("kang_ifnb_pbmc", batch="donor"),
    "crc": Cells("crc_tumor_scmetalink"),
    "scmix": Cells("scmix_3cellline", batch="batch"),
    "pbmc3k": Cells("pbmc3k_clustifyr"),
    "pbmc_facs, CD4 subsets": Cells("pbmc_facs_zheng2017", kinds="CD4+"),
    "melanoma, CD8 states": Cells("melanoma_tcells_scfeatures", values="X"),
    "pbmc_facs, residuals": Cells("pbmc_facs_zheng2017", values=RESIDUALS),
    "pbmc3k, residuals": Cells("pbmc3k_clustifyr", values=RESIDUALS),
    "crc, residuals": Cells("crc_tumor_scmetalink", values=RESIDUALS),
}
FIVE = ("pbmc_facs", "kang", "crc", "scmix", "pbmc3k")
CLOSE = ("pbmc_facs, CD4 subsets", "melanoma, CD8 states")
STABILISED = ("pbmc_facs, residuals", "pbmc3k, residuals", "crc, residuals")
STUDIES = {
    "pbmc_facs": "pbmc_facs_zheng2017",
    "pbmc3k": "pbmc3k_clustifyr",
    "ding": "pbmc_ding_scannotate",
    "kang": "kang_ifnb_pbmc",
}
_PAIRS = [("pbmc_facs", "pbmc3k"), ("pbmc_facs", "ding"), ("pbmc3k", "ding"), ("kang", "pbmc3k")]
STUDY_PAIRS = [*_PAIRS, *((b, a) for a, b in _PAIRS)]
"""Reference and query, both ways."""
QUICK = (LOGISTIC_REGRESSION, "knn", "frozen")
DEEP = ("frozen-2", "frozen-3")
# Sets, methods, and whether only the first fold of each seed is run: what takes minutes a fit.
PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], bool]] = {
    "labels": (FIVE, QUICK, False),
    "depth": (FIVE, DEEP, False),
    "close": (CLOSE, (*QUICK, *DEEP), False),
    "values": (STABILISED, ("knn", "frozen"), False),
    "query": (FIVE, ("query",), True),
    "adapters": (("pbmc_facs", "kang", "pbmc3k"), ("lora-8", "lora-16", "lora-64", "full"), True),
    "celltypist": (FIVE, ("celltypist",), True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the .h5ad files")
    parser.add_argument("--work", type=Path, required=True, help="folder for embeddings and results")
    parser.add_argument("--parts", nargs="+", choices=(*PARTS, *RUNS), default=["labels"])
    parser.add_argument("--sets", nargs="+", choices=SETS, help="of a part with several sets, only these")
    parser.add_argument("--methods", nargs="+", help="of the methods of a part, only these")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="only write the tables of what is there")
    arguments = parser.parse_args()
    bench = Bench(arguments.data, arguments.work, cf.load_model(arguments.model), arguments.seeds, arguments.methods)
    if not arguments.table:
        for part in arguments.parts:
            RUNS.get(part, Bench.run_part)(bench, part, arguments.sets)
    for title, table in TABLES.items():
        if text := table(bench.rows()):
            print(f"## {title}\n\n{text}\n")


class Bench:
    """Cells read once, results written one by one."""

    def __init__(self, data: Path, work: Path, model: CellFM, n_seeds: int, methods: list[str] | None) -> None:
        self.data, self.model, self.n_seeds, self.methods = data, model, n_seeds, methods
        self.work = work / model.weights_hash[:12]
        self.work.mkdir(parents=True, exist_ok=True)
        self.subjects = cache(self._subjects)

    def rows(self) -> pd.DataFrame:
        return pd.DataFrame([json.loads(path.read_text()) for path in sorted(self.work.glob("*.json"))])

    def once(self, key: dict, measure: Callable[[], dict]) -> None:
        """Measure what has not been measured yet."""
        name = "_".join(str(value).replace(" ", "-").replace("/", "-").replace(",", "") for value in key.values())
        path = self.work / f"{name}.json"
        if not path.exists():
            row = key | measure()
            path.write_text(json.dumps(row))
            shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items() if k != "by_class"}
            print(shown, flush=True)

    def chosen(self, methods: tuple[str, ...]) -> list[str]:
        return [method for method in methods if self.methods is None or method in self.methods]

    def run_part(self, part: str, only: list[str] | None) -> None:
        sets, methods, one_fold = PARTS[part]
        for name in sets:
            if only and name not in only:
                continue
            for seed in range(self.n_seeds):
                for fold in list(self.folds(name, seed))[: 1 if one_fold else None]:
                    for method in self.chosen(methods):
                        key = {"part": "labels", "set": name, "method": method, "seed": seed, "fold": fold.name}
                        self.once(key, lambda n=name, m=method, f=fold, s=seed: self.fit(n, m, f, s))

    def fit(self, name: str, method: str, fold: Fold, seed: int) -> dict:
        on = self.subjects(name)
        with timed_steps() as steps:
            start = time.perf_counter()
            verdict = judge(method, on, fold, random_state=seed)
            seconds = time.perf_counter() - start
        truth = on.labels[fold.test]
        epochs = {"step_seconds": float(np.median(steps)), "n_steps": len(steps)} if steps else {}
        table = class_table(truth, verdict.labels).set_index("label")["f1"].to_dict()
        called = celltypist_name() if method == "celltypist" else method
        sizes = {"called": called, "n_train": len(fold.train), "n_test": len(fold.test), "seconds": seconds}
        return sizes | epochs | label_scores(truth, verdict.labels) | {"by_class": table}

    def run_unknowns(self, part: str, only: list[str] | None) -> None:
        name = "pbmc_facs"
        on = self.subjects(name)
        for seed in range(self.n_seeds):
            whole = next(self.folds(name, seed))
            for label in np.unique(on.labels):
                of_label = np.flatnonzero(on.labels == label)
                fold = Fold(label, np.setdiff1d(whole.train, of_label), np.union1d(whole.test, of_label))
                for method in self.chosen(QUICK):
                    key = {"part": part, "set": name, "method": method, "seed": seed, "left_out": label}
                    self.once(key, lambda m=method, f=fold, s=seed: self.reject(on, m, f, s))

    def reject(self, on: Subjects, method: str, fold: Fold, seed: int) -> dict:
        verdict = judge(method, on, fold, random_state=seed)
        return rejection_scores(
            on.labels[fold.test] == fold.name,
            verdict.confidence,
            verdict.distance,
            confidence_threshold=verdict.confidence_threshold,
            distance_threshold=verdict.distance_threshold,
        )

    def run_panels(self, part: str, only: list[str] | None) -> None:
        """Labels of one study for the cells of another, by shared genes or by all genes of each."""
        for source, target in STUDY_PAIRS:
            for shared in (True, False):
                key = {"part": part, "set": f"{source} -> {target}", "method": "knn", "shared_genes": shared}
                self.once(key, lambda s=source, t=target, g=shared: self.transfer(STUDIES[s], STUDIES[t], g))

    def run_studies(self, part: str, only: list[str] | None) -> None:
        """Who is unknown in another study: with all kinds in the reference, and with each of them left out."""
        for source, target in STUDY_PAIRS:
            reference, query = (broad(self.read(Cells(STUDIES[name]))) for name in (source, target))
            kinds = sorted(set(reference.obs["kind"]) & set(query.obs["kind"]))
            for left_out in ["", *(kinds if reference.obs["kind"].nunique() > 2 else [])]:
                key = {"part": part, "set": f"{source} -> {target}", "method": "knn", "left_out": left_out}
                kept = reference[reference.obs["kind"] != left_out]
                self.once(key, lambda r=kept, q=query: self.reject_across(r, q))

    def reject_across(self, reference: ad.AnnData, query: ad.AnnData) -> dict:
        """Shares of cells that are rejected, by the threshold of the reference itself and by that for the query."""
        cells = on_shared_genes(*(read_cells_for(x, self.model.vocab) for x in (query, reference)), least=1)
        found, seen = (embed_cells(self.model, x) for x in cells)
        there, own = np.isfinite(found[:, 0]), np.isfinite(seen[:, 0])
        vote = fit_neighbor_vote(seen[own], reference.obs["kind"].to_numpy().astype(str)[own])
        said = vote.predict(found[there])
        kind = query.obs["kind"].to_numpy().astype(str)[there]
        known = np.isin(kind, vote.classes)
        row = {"shift": said.widened(1.0)}
        for name, most in (("own", vote.distance_threshold), ("query", said.widened(vote.distance_threshold))):
            rejected = said.rejected(vote.confidence_threshold, most)
            row[f"known_{name}"] = float(rejected[known].mean())
            row[f"unknown_{name}"] = float(rejected[~known].mean()) if not known.all() else None
        return row

    def transfer(self, source: str, target: str, shared_genes: bool) -> dict:
        reference, query = (broad(self.read(Cells(file))) for file in (source, target))
        cf.tl.transfer_labels(query, reference, labels_key="kind", model=self.model, shared_genes=shared_genes)
        known = query.obs["kind"].isin(reference.obs["kind"]).to_numpy()
        right = (query.obs["cellfm_label_raw"].astype(str) == query.obs["kind"]).to_numpy()
        rejected = (query.obs["cellfm_label"] == "Unknown").to_numpy()
        record = query.uns["cellfm"]["cellfm_proba"]
        ratio = query.obs["cellfm_distance"].median() / record["distance_threshold"]
        return {
            "accuracy": float(right[known].mean()),
            "rejected": float(rejected.mean()),
            "distance_over_threshold": float(ratio),
            "n_known": int(known.sum()),
        }

    def run_time(self, part: str, only: list[str] | None) -> None:
        """All of fitting a frozen head, embedding included, and labelling as many cells."""
        from cellfm.tasks.annotation._train import train_annotator

        def measure() -> dict:
            adata = self.read(SETS["pbmc_facs"])
            labels = adata.obs["cell_type"].to_numpy().astype(str)
            start = time.perf_counter()
            cells = read_cells_for(adata, self.model.vocab)
            embedding = embed_cells(self.model, cells)
            embedded = time.perf_counter()
            train_annotator(self.model, cells, labels, embedding=embedding)
            end = time.perf_counter()
            return {"n_cells": adata.n_obs, "embedding_seconds": embedded - start, "seconds": end - start}

        self.once({"part": part, "set": "pbmc_facs", "method": "frozen"}, measure)

    def folds(self, name: str, seed: int) -> Iterator[Fold]:
        labels, batch = self.subjects(name).labels, SETS[name].batch
        if batch is None:
            yield from random_folds(labels, N_FOLDS, random_state=seed)
        else:
            yield from leave_one_out_folds(labels, self.read(SETS[name]).obs[batch].astype(str).to_numpy())

    def _subjects(self, name: str) -> Subjects:
        cells = SETS[name]
        adata = self.read(cells)
        read = read_cells_for(adata, self.model.vocab, values_layer=cells.values)
        stored = self.work / f"{name.replace(' ', '-')}.npy"
        if not stored.exists():
            np.save(stored, embed_cells(self.model, read))
        labels = adata.obs["cell_type"].to_numpy().astype(str)
        return Subjects(self.model, read, labels, np.load(stored), log_normalised(read.counts))

    def read(self, cells: Cells) -> ad.AnnData:
        adata = ad.read_h5ad(self.data / f"{cells.file}.h5ad")
        if cells.batch:
            adata = adata[adata.obs[cells.batch].notna()].copy()
        if cells.kinds:
            adata = adata[adata.obs["cell_type"].str.contains(cells.kinds, regex=False)].copy()
        if cells.values == RESIDUALS:
            adata.layers[RESIDUALS] = shifted_residuals(adata)
        return adata


def shifted_residuals(adata: ad.AnnData) -> sp.csr_matrix:
    """Analytic Pearson residuals (Lause 2021) of expressed genes, less the smallest of all residuals."""
    import scanpy as sc

    residuals = np.asarray(sc.experimental.pp.normalize_pearson_residuals(adata, inplace=False)["X"], np.float32)
    shifted = residuals - np.nanmin(residuals)  # NaN for genes that no cell expresses
    shifted[adata.X.toarray() == 0] = 0
    return sp.csr_matrix(shifted)


def broad(adata: ad.AnnData) -> ad.AnnData:
    """Kinds of blood cells that all studies tell apart, in ``obs["kind"]``."""
    marks = {"CD34": "CD34+", "CD4": "CD4 T", "CD8": "CD8 T", "Cytotoxic": "CD8 T", "CD56": "NK", "NK": "NK"}
    marks |= {"Mono": "Monocyte", "mono": "Monocyte", "B": "B"}
    kinds = adata.obs["cell_type"].astype(str)
    adata.obs["kind"] = [next((kind for mark, kind in marks.items() if mark in name), name) for name in kinds]
    return adata


@contextmanager
def timed_steps() -> Iterator[list[float]]:
    """Seconds of each step of training in this block."""
    seconds: list[float] = []
    call = Step.__call__

    def timed(self: Step, *args, **kwargs):
        start = time.perf_counter()
        result = call(self, *args, **kwargs)
        seconds.append(time.perf_counter() - start)
        return result

    Step.__call__ = timed  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        Step.__call__ = call  # type: ignore[method-assign]


RUNS: dict[str, Callable] = {
    "unknowns": Bench.run_unknowns,
    "panels": Bench.run_panels,
    "studies": Bench.run_studies,
    "time": Bench.run_time,
}


if __name__ == "__main__":
    main()
