"""Genetic perturbations of the Norman subset, forward and reverse, beside the baselines.

    python -m benchmarks.perturbation --data FOLDER [--seeds 5] [--variants NAME ...] [--inner -o FILE.json]

With `--inner` the test conditions of each split are taken away first, and the others are split again: what recipes are
chosen by.
"""

import argparse
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import cellfm as cf
from benchmarks.record import facts, load_results, save_results
from cellfm.tasks.perturbation._baselines import (
    ADDITIVE,
    BILINEAR_CELLFM,
    BILINEAR_PCA,
    GENE_EFFECTS,
    MEAN,
    NO_CHANGE,
)
from cellfm.tasks.perturbation._conditions import read_conditions
from cellfm.tasks.perturbation._split import simulation_split

SET = "perturb_norman19_sub.h5ad"
TERMS = "gene_sets/GO_Biological_Process_2021.gmt"
MIN_CELLS = 10
"""Genes that fewer cells express are left out: half of the genes of this subset are expressed in none."""
VARIANTS: dict[str, dict] = {
    "CellFM genes": {},
    "contextual genes": {"genes": "contextual", "counts_layer": "counts"},
    "learned genes": {"genes": "learned", "perturbation": "learned"},
    "CellFM genes, as GEARS": {"start": "none", "cells_per_pair": 1, "power": 4.0, "weight_decay": 5e-4},
}
METRICS = {
    "pearson_delta": "PCC of the change",
    "pearson_delta_top20": "PCC, top 20",
    "mse": "MSE",
    "mse_top20": "MSE, top 20",
    "l2_top20": "L2, top 20",
    "wrong_direction": "wrong direction",
}
"""Scores by condition, and what tables call them; the top 20 are the most changed genes."""
N_TOP = 20
JUDGED_BY, ERROR = "pearson_delta", "mse_top20"
PUBLISHED = NO_CHANGE, MEAN, ADDITIVE, BILINEAR_PCA, BILINEAR_CELLFM
TO_BEST = "PCC, to the best of no change, mean change, additive and bilinear in each split"


def load(data: Path) -> ad.AnnData:
    """The cells, log-normalised by the depth over the whole transcriptome, which the subset keeps beside."""
    adata = ad.read_h5ad(data / SET)
    counts = sp.csr_matrix(adata.X, dtype=np.float32)
    depth = adata.obs["total_counts_full"].to_numpy()
    adata.layers["counts"] = counts
    adata.X = sp.csr_matrix(sp.diags(1e4 / depth) @ counts, dtype=np.float32).log1p()
    expressed = np.bincount(counts.indices, minlength=adata.n_vars) >= MIN_CELLS
    return adata[:, expressed].copy()


def without_test(adata: ad.AnnData, seed: int) -> ad.AnnData:
    """Cells of the conditions that the split of a seed trains and validates on, and control."""
    named = set(adata.obs["condition"].astype(str).str.split("+").explode())
    found = read_conditions(adata, adata, "condition", known=named)
    test = set(simulation_split(found.perturbed, random_state=seed).test)
    kept = [found.conditions[code] not in test for code in found.codes]
    return adata[kept].copy()


def run(data: Path, variant: str, seed: int, *, inner: bool = False) -> dict:
    """One variant fitted on one split: its scores, its hits and how long it took."""
    adata = without_test(load(data), seed) if inner else load(data)
    model = cf.load_model("mini")
    known = facts(model)
    start, start_cpu = time.perf_counter(), time.process_time()
    predictor = cf.tl.fit_perturbation(
        adata,
        model,
        condition_key="condition",
        gene_sets=data / TERMS,
        min_known_genes=50,
        random_state=seed,
        **VARIANTS[variant],
    )
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - start_cpu}
    hits = cf.tl.evaluate_perturbation_ranking(predictor)
    scores = predictor.scores.assign(l2_top20=np.sqrt(N_TOP * predictor.scores["mse_top20"]))
    sizes = {f"n_{part}": len(getattr(predictor.split, part)) for part in ("train", "validation", "test")}
    known |= {"variant": variant, "seed": seed, "file": SET, "chosen": predictor.chosen} | sizes
    known |= {"epoch": int(predictor.history["kept"].idxmax())} | {name: round(took[name], 1) for name in took}
    named = ["predictor", "condition", "subgroup", *METRICS]
    return known | {"scores": scores[named].round(5).to_dict("list"), "hits": hits.round(4).to_dict("list")}


def spread(values: pd.Series, digits: int = 3) -> str:
    """Mean and, if there is more than one value, standard deviation over splits."""
    mean = f"{values.mean():.{digits}f}"
    return f"{mean} ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else mean


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


def scores_of(runs: list[dict]) -> pd.DataFrame:
    """Scores of all conditions and splits, what is chosen first, then networks and baselines."""
    tables: dict[str, list[pd.DataFrame]] = {"chosen": [], "network": [], "": []}
    for run in runs:
        scores = pd.DataFrame(run["scores"]).assign(seed=run["seed"])
        network = scores["predictor"] == "network"
        tables["chosen"].append(
            scores[scores["predictor"] == run["chosen"]].assign(predictor=f"chosen, {run['variant']}")
        )
        tables["network"].append(scores[network].assign(predictor=f"network, {run['variant']}"))
        tables[""].append(scores[~network])  # the same in all variants
    joined = pd.concat([table for group in tables.values() for table in group])
    return joined.drop_duplicates(["predictor", "seed", "condition"])


def _means(part: pd.DataFrame, *named: str) -> list[list[str]]:
    means = part.groupby([*named, "seed"], sort=False)[list(METRICS)].mean()
    digits = [4 if name.startswith("mse") else 3 for name in METRICS]
    return [
        [*(key if isinstance(key, tuple) else (key,)), str(len(own)), *map(spread, own.to_numpy().T, digits)]
        for key, own in means.groupby(level=list(range(len(named))), sort=False)
    ]


def table(runs: list[dict]) -> str:
    """Means over the conditions of a split, then mean and spread over splits."""
    return markdown(["predictor", "splits", *METRICS.values()], _means(scores_of(runs), "predictor"))


def table_seen(runs: list[dict]) -> str:
    """The same by how many of the genes training has seen."""
    scores = scores_of(runs)
    order = [name for name in ("seen2", "seen1", "seen0", "unseen_single") if name in set(scores["subgroup"])]
    scores["subgroup"] = pd.Categorical(scores["subgroup"], order)
    rows = _means(scores.sort_values("subgroup", kind="stable").astype({"subgroup": str}), "subgroup", "predictor")
    return markdown(["conditions", "predictor", "splits", *METRICS.values()], rows)


def table_differences(runs: list[dict]) -> str:
    """Of what is chosen and the networks to additive, and to the best baseline of each split; by split in brackets."""
    scores = scores_of(runs).groupby(["predictor", "seed"], sort=False)[[JUDGED_BY, ERROR]].mean()
    means, errors = (scores[score].unstack("predictor") for score in (JUDGED_BY, ERROR))
    own = [name for name in means if name.startswith(("network", "chosen"))]
    known = means[list(PUBLISHED)]
    rows = []
    for name in [*own, GENE_EFFECTS]:
        to_best = means[name] - known.max(axis=1)
        by_split = ", ".join(f"{value:+.3f}" for value in to_best)
        texts = spread(means[name] - known[ADDITIVE]), f"{spread(to_best)} ({by_split})"
        rows.append([name, str(len(to_best)), *texts, spread(errors[name] - errors[ADDITIVE], 4)])
    heads = [f"{METRICS[JUDGED_BY]}, to additive", TO_BEST, f"{METRICS[ERROR]}, to additive"]
    return markdown(["difference of", "splits", *heads], rows)


def table_fits(runs: list[dict]) -> str:
    """Time, epochs and choices."""
    rows = []
    for variant, own in pd.DataFrame(runs).groupby("variant", sort=False):
        sizes = [", ".join(own[f"n_{part}"].astype(str)) for part in ("train", "validation", "test")]
        texts = [spread(own[column], 1) for column in ("seconds", "cpu_seconds", "epoch")]
        rows.append([str(variant), *sizes, *texts, "; ".join(own["chosen"])])
    parts = ["conditions to train on", "to validate", "to test"]
    return markdown(["fit", *parts, "seconds", "of the processor", "epoch kept", "chosen in each split"], rows)


def table_hits(runs: list[dict]) -> str:
    """Hits of the reverse search among all singles and pairs."""
    tables = []
    for run in runs:
        hits = pd.DataFrame(run["hits"]).assign(seed=run["seed"])
        hits["predictor"] = hits["predictor"].replace("network", f"network, {run['variant']}")
        tables.append(hits)
    hits = pd.concat(tables).drop_duplicates(["predictor", "seed", "k"])
    shown = [1, 3, 5, 10]
    rows = []
    for kind in ("correct", "relevant"):
        for name, own in hits.groupby("predictor"):
            values = own.pivot(index="seed", columns="k", values=kind)[shown]
            rows.append([kind, str(name), str(len(values)), *(spread(values[k]) for k in shown)])
    return markdown(["hit", "predictor", "splits", *(f"k = {k}" for k in shown)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["CellFM genes", "learned genes"])
    parser.add_argument("--inner", action="store_true", help="leave the test conditions out, and split the others")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    if args.inner and not args.output:
        parser.error("--inner needs -o: its numbers are not results")
    runs = load_results("perturbation", args.output)
    for variant in args.variants:
        for seed in range(args.seeds):
            runs = [run for run in runs if (run["variant"], run["seed"]) != (variant, seed)]
            runs.append(run(args.data, variant, seed, inner=args.inner))
            save_results("perturbation", runs, args.output)


if __name__ == "__main__":
    main()
