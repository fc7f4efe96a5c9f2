"""Genetic perturbations of the Norman subset, forward and reverse, beside the baselines: one CSV a run, resumable.

python -m benchmarks.perturbation --data FOLDER --work FOLDER [--seeds 5] [--variants NAME ...] [--table]
"""

import argparse
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import cellfm as cf

SET = "perturb_norman19_sub.h5ad"
TERMS = "gene_sets/GO_Biological_Process_2021.gmt"
MIN_CELLS = 10
"""Genes that fewer cells express are left out: half of the genes of this subset are expressed in none."""
VARIANTS: dict[str, dict] = {
    "CellFM genes": {},
    "learned genes": {"genes": "learned", "perturbation": "learned"},
    "CellFM genes, from the mean": {"start": "mean"},
    "CellFM genes, as GEARS": {"start": "none", "cells_per_pair": 1, "power": 4.0, "weight_decay": 5e-4},
}
METRICS = ["pearson_delta", "pearson_delta_top20", "mse", "mse_top20", "wrong_direction", "l2_1000"]


def load(data: Path) -> ad.AnnData:
    """The cells, log-normalised by the depth over the whole transcriptome, which the subset keeps beside."""
    adata = ad.read_h5ad(data / SET)
    counts = sp.csr_matrix(adata.X, dtype=np.float32)
    depth = adata.obs["total_counts_full"].to_numpy()
    adata.X = sp.csr_matrix(sp.diags(1e4 / depth) @ counts, dtype=np.float32).log1p()
    expressed = np.bincount(counts.indices, minlength=adata.n_vars) >= MIN_CELLS
    return adata[:, expressed].copy()


def run(data: Path, work: Path, variant: str, seed: int) -> None:
    """Fit one variant on one split, and write its scores, its hits and how long it took."""
    start = time.perf_counter()
    predictor = cf.tl.fit_perturbation(
        load(data),
        condition_key="condition",
        gene_sets=data / TERMS,
        min_known_genes=50,
        random_state=seed,
        **VARIANTS[variant],
    )
    seconds = time.perf_counter() - start
    best = int(predictor.history["validation_mse_top20"].idxmin())
    name = f"{variant}-{seed}.csv"
    hits = cf.tl.evaluate_reverse(predictor)
    hits.assign(variant=variant, seed=seed).to_csv(work / f"reverse-{name}", index=False)
    scores = predictor.scores.assign(variant=variant, seed=seed, seconds=seconds, best_epoch=best)
    scores.to_csv(work / f"scores-{name}", index=False)


def tabulate(work: Path) -> str:
    """Means over the conditions of a split, then mean and spread over splits."""
    table = pd.concat([pd.read_csv(path) for path in sorted(work.glob("scores-*.csv"))])
    network = table["predictor"] == "network"
    table["predictor"] = np.where(network, "network, " + table["variant"], table["predictor"])
    table = table.drop_duplicates(["predictor", "seed", "condition"])
    parts = [table.assign(subgroup="all"), table]
    lines = [f"| conditions | predictor | splits | {' | '.join(METRICS)} |", "|---" * (len(METRICS) + 3) + "|"]
    for part in parts:
        means = part.groupby(["subgroup", "predictor", "seed"], sort=False)[METRICS].mean()
        for (subgroup, name), own in means.groupby(level=[0, 1], sort=False):
            cells = [f"{own[m].mean():.4f} ± {own[m].std(ddof=0):.4f}" for m in METRICS]
            lines.append(f"| {subgroup} | {name} | {len(own)} | {' | '.join(cells)} |")
    lines.append("")
    took = table[table["predictor"].str.startswith("network")].groupby("predictor")[["seconds", "best_epoch"]]
    lines += [took.mean().round(1).to_string(), ""]
    hits = pd.concat([pd.read_csv(path) for path in sorted(work.glob("reverse-*.csv"))])
    shown = hits[hits["k"].isin([1, 3, 5, 10])].groupby(["variant", "predictor", "k"])[["correct", "relevant"]].mean()
    return "\n".join([*lines, shown.round(3).to_string()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--table", action="store_true", help="only print what was found")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if not args.table:
        for variant in args.variants:
            for seed in range(args.seeds):
                if not (args.work / f"scores-{variant}-{seed}.csv").exists():
                    run(args.data, args.work, variant, seed)
    print(tabulate(args.work))


if __name__ == "__main__":
    main()
