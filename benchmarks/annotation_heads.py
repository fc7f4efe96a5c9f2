"""Accuracy of annotation on real cells, beside logistic regression: one JSON a fit, resumable; tables as markdown.

python -m benchmarks.annotation_heads --data FOLDER --work FOLDER [--parts labels depth ...] [--seeds 3] [--table]
"""

import argparse
import json
import re
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
from benchmarks.annotation_tables import CHOSEN_ON, FEW, LABELLED, TABLES, TESTED_ON
from cellfm.cells.input import read_input
from cellfm.cells.input_options import InputOptions
from cellfm.engines.jax.training import JaxTrainer
from cellfm.model import CellFM
from cellfm.model._embed import embed_cells
from cellfm.tasks.annotation._baselines import celltypist_name
from cellfm.tasks.annotation._evaluation_set import EvaluationSet
from cellfm.tasks.annotation._features import COMPONENTS, MODEL, log_normalised
from cellfm.tasks.annotation._methods import LOGISTIC_REGRESSION, evaluate
from cellfm.tasks.annotation._metrics import class_table, label_scores, rejection_scores
from cellfm.tasks.annotation._neighbors import fit_neighbor_vote
from cellfm.tasks.annotation._panel import on_shared_genes
from cellfm.tasks.annotation._split import Fold, leave_one_out_folds, random_folds

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
    without: tuple[str, ...] = ()
    """Labels that are left out: cells of no type, or too few for folds."""
    values: str | None = None
    """Layer of values for the model."""


SETS = {
    # Cells that `mini` has not seen in training.
    "pbmc4k": Cells("more/pbmc4k_soupx", without=("?",)),
    "hao": Cells("more/pbmc_hao_deconvbench", batch="donor"),
    "breast": Cells("more/breast_tnbc_wu2021_cid4465"),
    "pdac": Cells("more/pancreas_pdac_cardspa", without=("Endocrine_cells", "Fibroblasts")),
    "melanoma, CD8 states": Cells("melanoma_tcells_scfeatures", values="X"),
    # Cells that it has seen, with their labels.
    "kang": Cells("kang_ifnb_pbmc", batch="donor"),
    "pancreas": Cells("pancreas_cepo", batch="protocol"),
    "scmix": Cells("scmix_3cellline", batch="batch"),
    "pbmc3k": Cells("pbmc3k_clustifyr"),
    "crc": Cells("crc_tumor_scmetalink"),
    "pbmc_facs": Cells("pbmc_facs_zheng2017"),
    "pbmc_facs, CD4 subsets": Cells("pbmc_facs_zheng2017", kinds="CD4+"),
    "pbmc_facs, residuals": Cells("pbmc_facs_zheng2017", values=RESIDUALS),
    "pbmc3k, residuals": Cells("pbmc3k_clustifyr", values=RESIDUALS),
    "crc, residuals": Cells("crc_tumor_scmetalink", values=RESIDUALS),
}
STABILISED = ("pbmc_facs, residuals", "pbmc3k, residuals", "crc, residuals")
STUDIES = {
    "pbmc_facs": "pbmc_facs_zheng2017",
    "pbmc3k": "pbmc3k_clustifyr",
    "ding": "pbmc_ding_scannotate",
    "kang": "kang_ifnb_pbmc",
    "pbmc4k": "more/pbmc4k_soupx",
    "hao": "more/pbmc_hao_deconvbench",
    "breast": "more/breast_tnbc_wu2021_cid4465",
    "pdac": "more/pancreas_pdac_cardspa",
    "crc": "crc_tumor_scmetalink",
}
HEADS = ("knn", "knn-pca", "frozen", "frozen-pca")
ON_GENES = ("knn-hvg", "frozen-hvg")
QUICK = (LOGISTIC_REGRESSION, *HEADS)
# Sets, methods, and whether only the first fold of each seed is run: what takes minutes a fit.
PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], bool]] = {
    "labels": (LABELLED, QUICK, False),
    "genes": (LABELLED, ON_GENES, False),
    "depth": (LABELLED, ("frozen-2", "frozen-2-pca", "frozen-3", "frozen-3-pca"), True),
    "values": (STABILISED, ("knn", "frozen"), False),
    "query": (FEW, ("query",), True),
    "adapters": (FEW, ("lora-8", "lora-16", "lora-64", "full"), True),
    "celltypist": (LABELLED, ("celltypist",), True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the .h5ad files")
    parser.add_argument("--work", type=Path, required=True, help="folder for embeddings and results")
    parser.add_argument("--parts", nargs="+", choices=(*PARTS, *RUNS), default=["labels"])
    parser.add_argument("--sets", nargs="+", choices={*SETS, *STUDIES}, help="only these sets, or studies of pairs")
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
        return self.score(self.subjects(name), method, fold, seed)

    def score(self, on: EvaluationSet, method: str, fold: Fold, seed: int) -> dict:
        with timed_steps() as steps:
            start = time.perf_counter()
            verdict = evaluate(method, on, fold, random_state=seed)
            seconds = time.perf_counter() - start
        truth = on.labels[fold.test]
        epochs = {"step_seconds": float(np.median(steps)), "n_steps": len(steps)} if steps else {}
        table = class_table(truth, verdict.labels).set_index("label")["f1"].to_dict()
        called = celltypist_name() if method == "celltypist" else method
        sizes = {"called": called, "n_train": len(fold.train), "n_test": len(fold.test), "seconds": seconds}
        return sizes | epochs | label_scores(truth, verdict.labels) | {"by_class": table}

    def run_unknowns(self, part: str, only: list[str] | None) -> None:
        for name in only or ("pbmc4k", "breast", "pbmc_facs"):
            on = self.subjects(name)
            for seed in range(self.n_seeds):
                whole = next(self.folds(name, seed))
                for label in np.unique(on.labels):
                    of_label = np.flatnonzero(on.labels == label)
                    fold = Fold(label, np.setdiff1d(whole.train, of_label), np.union1d(whole.test, of_label))
                    for method in self.chosen(QUICK):
                        key = {"part": part, "set": name, "method": method, "seed": seed, "left_out": label}
                        self.once(key, lambda o=on, m=method, f=fold, s=seed: self.reject(o, m, f, s))

    def reject(self, on: EvaluationSet, method: str, fold: Fold, seed: int) -> dict:
        verdict = evaluate(method, on, fold, random_state=seed)
        return rejection_scores(
            on.labels[fold.test] == fold.name,
            verdict.confidence,
            verdict.distance,
            confidence_threshold=verdict.confidence_threshold,
            distance_threshold=verdict.distance_threshold,
        )

    def run_panels(self, part: str, only: list[str] | None) -> None:
        """Labels of one study for the cells of another, by shared genes or by all genes of each."""
        for source, target in CHOSEN_ON:
            for shared in (True, False):
                key = {"part": part, "set": f"{source} -> {target}", "method": "knn", "shared_genes": shared}
                self.once(key, lambda s=source, t=target, g=shared: self.transfer(s, t, g))

    def run_across(self, part: str, only: list[str] | None) -> None:
        """Labels for the cells of another study by the genes that both have; cells of kinds that the reference has."""
        for source, target in self.pairs(only):
            on, whole = self.pair(source, target)
            known = np.isin(on.labels[whole.test], on.labels[whole.train])
            fold = Fold(target, whole.train, whole.test[known])
            for method in self.chosen((*QUICK, *ON_GENES)):
                key = {"part": part, "set": f"{source} -> {target}", "method": method}
                self.once(key, lambda o=on, m=method, f=fold: self.score(o, m, f, 0))

    def run_studies(self, part: str, only: list[str] | None) -> None:
        """Who is unknown in another study: with all kinds in the reference, and with each of them left out."""
        for source, target in self.pairs(only):
            on, whole = self.pair(source, target)
            of = on.labels[whole.train]
            kinds = sorted(set(of) & set(on.labels[whole.test]))
            for features in [name for name in (MODEL, COMPONENTS) if self.methods is None or name in self.methods]:
                for left_out in ["", *(kinds if len(set(of)) > 2 else [])]:
                    key = {"part": part, "set": f"{source} -> {target}", "method": features, "left_out": left_out}
                    fold = Fold(target, whole.train[of != left_out], whole.test)
                    self.once(key, lambda o=on, x=features, f=fold: self.reject_across(o, x, f))

    def reject_across(self, on: EvaluationSet, features: str, fold: Fold) -> dict:
        """Shares of cells that the vote rejects, by three thresholds of distance.

        That of the reference, the same times one factor for the whole query, and one for each class.
        """
        seen, kind = on.features(features, fold), on.labels[fold.test]
        vote = fit_neighbor_vote(seen.train, on.labels[fold.train])
        said, most = vote.predict(seen.test), vote.distance_threshold
        known = np.isin(kind, vote.classes)
        right = known & (np.array(vote.classes)[said.codes] == kind)
        row: dict = {"n_known": int(known.sum()), "n_unknown": int((~known).sum())}
        for name, threshold in (
            ("own", np.full(len(vote.classes), most)),
            ("factor", np.full(len(vote.classes), most * one_factor(said.distance, said.codes))),
            ("class", said.shift.thresholds(most)),
        ):
            far = said.distance > threshold[said.codes]
            rejected = far | (said.confidence < vote.confidence_threshold)
            of_class = [far[right & (kind == c)].mean() for c in vote.classes if (right & (kind == c)).sum() >= 20]
            row[f"known_{name}"] = float(rejected[known].mean())
            row[f"right_{name}"] = float(far[right].mean())
            row[f"lost_{name}"] = int(np.sum(np.array(of_class) > 0.5))
            row[f"unknown_{name}"] = float(rejected[~known].mean()) if not known.all() else None
        return row | {"n_classes": len(of_class)}

    def pairs(self, only: list[str] | None) -> list[tuple[str, str]]:
        """Those that are asked for, reference and query: both of them studies that `only` names."""
        return [pair for pair in (*TESTED_ON, *CHOSEN_ON) if only is None or set(pair) <= set(only)]

    def pair(self, source: str, target: str) -> tuple[EvaluationSet, Fold]:
        """Two studies by the genes that both have; the reference trains and the query is the test."""
        parts = [broad(self.read(Cells(STUDIES[name], without=("?",))), name) for name in (source, target)]
        both = ad.concat(parts, join="inner", label="study", keys=(source, target), index_unique="-")
        stored = self.work / f"{source}-{target}.npy"
        if not stored.exists():
            cells = on_shared_genes(*(read_input(part, self.model.vocab) for part in parts), min_genes=1)
            np.save(stored, np.vstack([embed_cells(self.model, x) for x in cells]))
        read = read_input(both, self.model.vocab, InputOptions(min_known_genes=1))
        embedding, kind = np.load(stored), both.obs["kind"].to_numpy().astype(str)
        on = EvaluationSet(self.model, read, kind, embedding, log_normalised(read.counts))
        there, of_source = np.isfinite(embedding[:, 0]), (both.obs["study"] == source).to_numpy()
        return on, Fold(target, np.flatnonzero(there & of_source), np.flatnonzero(there & ~of_source))

    def transfer(self, source: str, target: str, shared_genes: bool) -> dict:
        reference, query = (broad(self.read(Cells(STUDIES[name])), name) for name in (source, target))
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
            cells = read_input(adata, self.model.vocab)
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

    def _subjects(self, name: str) -> EvaluationSet:
        cells = SETS[name]
        adata = self.read(cells)
        read = read_input(adata, self.model.vocab, InputOptions(values_layer=cells.values))
        stored = self.work / f"{name.replace(' ', '-')}.npy"
        if not stored.exists():
            np.save(stored, embed_cells(self.model, read))
        labels = adata.obs["cell_type"].to_numpy().astype(str)
        return EvaluationSet(self.model, read, labels, np.load(stored), log_normalised(read.counts))

    def read(self, cells: Cells) -> ad.AnnData:
        adata = ad.read_h5ad(self.data / f"{cells.file}.h5ad")
        if cells.batch:
            adata = adata[adata.obs[cells.batch].notna()].copy()
        if cells.kinds:
            adata = adata[adata.obs["cell_type"].str.contains(cells.kinds, regex=False)].copy()
        if cells.without:
            adata = adata[~adata.obs["cell_type"].isin(cells.without)].copy()
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


BLOOD = {
    "CD34": "CD34+",
    "CD8|Cytotoxic": "CD8 T",
    "CD4|Tregs": "CD4 T",
    "CD56|NK": "NK",
    "[Mm]ono|MNP": "Monocyte",
    "pDC": "pDC",
    "DC": "DC",
    "Plasma": "Plasma",
    "B": "B",
}
TISSUE = {
    "CAF|[Ff]ibro": "Fibroblast",
    "Endothel": "Endothelial",
    "[Ee]pithel|Ductal|Cancer": "Epithelial",
    "^T$|T.?cells": "T/NK",
    "TAM|[Mm]acro|[Mm]ono|Myeloid|mDC": "Myeloid",
    "[Pp]lasma": "Plasma",
    "^B$|B-cells": "B",
    "[Mm]ast": "Mast",
}
TISSUES = ("breast", "pdac", "crc")


def broad(adata: ad.AnnData, study: str) -> ad.AnnData:
    """Kinds of cells that studies of a tissue tell apart, in ``obs["kind"]``: by the first pattern that a label has."""
    patterns = TISSUE if study in TISSUES else BLOOD
    kinds = adata.obs["cell_type"].astype(str)
    adata.obs["kind"] = [next((k for mark, k in patterns.items() if re.search(mark, name)), name) for name in kinds]
    return adata


def one_factor(distance: np.ndarray, codes: np.ndarray) -> float:
    """What the distance threshold was widened by until version 0.1: the shift of the nearest class, 1 to 1.3."""
    medians = [np.median(distance[codes == i]) for i in np.unique(codes) if (codes == i).sum() >= 20]
    return float(np.clip(min(medians), 1, 1.3)) if len(medians) > 1 else 1.0


@contextmanager
def timed_steps() -> Iterator[list[float]]:
    """Seconds of each step of training in this block."""
    seconds: list[float] = []
    call = JaxTrainer.__call__

    def timed(self: JaxTrainer, *args, **kwargs):
        start = time.perf_counter()
        result = call(self, *args, **kwargs)
        seconds.append(time.perf_counter() - start)
        return result

    JaxTrainer.__call__ = timed  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        JaxTrainer.__call__ = call  # type: ignore[method-assign]


RUNS: dict[str, Callable] = {
    "unknowns": Bench.run_unknowns,
    "panels": Bench.run_panels,
    "across": Bench.run_across,
    "studies": Bench.run_studies,
    "time": Bench.run_time,
}


if __name__ == "__main__":
    main()
