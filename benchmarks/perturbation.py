"""Genetic perturbations of the Norman subset, forward and reverse, beside the baselines: one CSV a run, resumable.

python -m benchmarks.perturbation --data FOLDER --work FOLDER [--seeds 5] [--variants NAME ...] [--inner] [--table]

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
METRICS = ["pearson_delta", "pearson_delta_top20", "mse", "mse_top20", "wrong_direction"]
JUDGED_BY = "pearson_delta"


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


def run(data: Path, work: Path, variant: str, seed: int, *, inner: bool = False) -> None:
    """Fit one variant on one split, and write its scores, its hits and how long it took."""
    adata = without_test(load(data), seed) if inner else load(data)
    start, start_cpu = time.perf_counter(), time.process_time()
    predictor = cf.tl.fit_perturbation(
        adata,
        condition_key="condition",
        gene_sets=data / TERMS,
        min_known_genes=50,
        random_state=seed,
        **VARIANTS[variant],
    )
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - start_cpu}
    epoch = int(predictor.history["kept"].idxmax())
    name = f"{variant}-{seed}.csv"
    hits = cf.tl.evaluate_perturbation_ranking(predictor)
    hits.assign(variant=variant, seed=seed).to_csv(work / f"reverse-{name}", index=False)
    facts = {"epoch": epoch, "chosen": predictor.chosen, "n_validation": len(predictor.split.validation)}
    scores = predictor.scores.assign(variant=variant, seed=seed, **facts, **took)
    scores.to_csv(work / f"scores-{name}", index=False)


def spread(values: pd.Series, digits: int = 3) -> str:
    """Mean and spread over splits."""
    return f"{values.mean():.{digits}f} ± {values.std(ddof=0):.{digits}f}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


def tabulate(work: Path) -> str:
    """Means over the conditions of a split, then mean and spread over splits."""
    table = pd.concat([pd.read_csv(path) for path in sorted(work.glob("scores-*.csv"))], ignore_index=True)
    chosen = table[table["predictor"] == table["chosen"]].assign(predictor="chosen, " + table["variant"])
    network = table["predictor"] == "network"
    table["predictor"] = np.where(network, "network, " + table["variant"], table["predictor"])
    table = pd.concat([chosen, table])
    table = table.drop_duplicates(["predictor", "seed", "condition"])
    parts = [table.assign(subgroup="all"), table.sort_values("subgroup", kind="stable")]
    rows = []
    for part in parts:
        means = part.groupby(["subgroup", "predictor", "seed"], sort=False)[METRICS].mean()
        for (subgroup, name), own in means.groupby(level=[0, 1], sort=False):
            rows.append([str(subgroup), str(name), str(len(own)), *(spread(own[m], 4) for m in METRICS)])
    lines = [markdown(["conditions", "predictor", "splits", *METRICS], rows), "", *_differences(table), ""]
    fits = table[table["predictor"].str.startswith("network")].drop_duplicates(["predictor", "seed"])
    columns = ["seconds", "cpu_seconds", "epoch", "n_validation"]
    rows = [
        [str(name), *(spread(own[c], 1) for c in columns), ", ".join(own.sort_values("seed")["chosen"])]
        for name, own in fits.groupby("predictor")
    ]
    return "\n".join([*lines, markdown(["fit", *columns, "chosen in each split"], rows), "", *_hits(work)])


def _differences(table: pd.DataFrame) -> list[str]:
    """Of the network to additive, to the best baseline of each split, and to the one that is best over all splits."""
    means = table.groupby(["predictor", "seed"])[JUDGED_BY].mean().unstack("predictor")
    networks = [name for name in means if str(name).startswith(("network", "chosen"))]
    others = means.drop(columns=networks)
    best = str(others.mean().idxmax())
    rows = []
    for name in networks:
        own = means[name].dropna()
        beside = {"additive": others["additive"], best: others[best], "best of each split": others.max(axis=1)}
        rows += [[str(name), str(other), str(len(own)), spread(own - by[own.index])] for other, by in beside.items()]
    return [markdown([f"difference of {JUDGED_BY}", "to", "splits", "difference"], rows)]


def _hits(work: Path) -> list[str]:
    hits = pd.concat([pd.read_csv(path) for path in sorted(work.glob("reverse-*.csv"))])
    hits["predictor"] = np.where(hits["predictor"] == "network", "network, " + hits["variant"], hits["predictor"])
    hits = hits.drop_duplicates(["predictor", "seed", "k"])
    shown = [1, 3, 5, 10]
    rows = []
    for kind in ("correct", "relevant"):
        for name, own in hits.groupby("predictor"):
            values = own.pivot(index="seed", columns="k", values=kind)[shown]
            rows.append([kind, str(name), str(len(values)), *(spread(values[k]) for k in shown)])
    return [markdown(["hit", "predictor", "splits", *(f"k = {k}" for k in shown)], rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--inner", action="store_true", help="leave the test conditions out, and split the others")
    parser.add_argument("--table", action="store_true", help="only print what was found")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if not args.table:
        for variant in args.variants:
            for seed in range(args.seeds):
                if not (args.work / f"scores-{variant}-{seed}.csv").exists():
                    run(args.data, args.work, variant, seed, inner=args.inner)
    print(tabulate(args.work))


if __name__ == "__main__":
    main()
