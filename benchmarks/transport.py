"""The interferon response of cell types that were left out, by every method and space: one CSV a run, resumable.

python -m benchmarks.transport --data FOLDER --work FOLDER [--seeds 3] [--variants NAME ...] [--table]
"""

import argparse
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

import cellfm as cf

SET = "kang_ifnb_pbmc.h5ad"
SPACES = ("cellfm", "pca")
VARIANTS: dict[str, dict] = {
    "cellot": {"method": "cellot"},
    "entropic": {"method": "entropic"},
    "latent_shift": {"method": "latent_shift", "groupby": "cell_type"},
    "cellot, whole cells": {"method": "cellot", "decode": "whole"},
    "cellot, from no change": {"method": "cellot", "start": "none"},
    "cellot, 1e-4 from no change": {"method": "cellot", "start": "none", "learning_rate": 1e-4},
    # These need pertpy: pip install 'cellfm[scgen]'.
    "scgen": {"method": "scgen", "groupby": "cell_type"},
    "scgen, whole cells": {"method": "scgen", "groupby": "cell_type", "decode": "whole"},
}
ONE_SEED = {"cellot, whole cells", "cellot, from no change", "cellot, 1e-4 from no change"}
BASELINES = ("identity", "mean shift", "mean change")
RANDOM = "a random fifth"
METRICS = ["r2", "r2_top50", "pearson_change", "pearson_change_top50", "l2_top50", "mmd_top50", "mmd_latent"]


def load(data: Path, work: Path) -> ad.AnnData:
    """The cells with their embedding, which is kept, so that every run has the same."""
    kept = work / "embedded.h5ad"
    if not kept.exists():
        adata = ad.read_h5ad(data / SET)
        cf.tl.embed(adata)
        adata.write_h5ad(kept)
    return ad.read_h5ad(kept)


def run(adata: ad.AnnData, variant: str, space: str, left_out: str, seed: int) -> pd.DataFrame:
    """Fit one variant without one cell type; its scores and those of the baselines beside it."""
    start = time.perf_counter()
    model = cf.tl.fit_transport(
        adata,
        condition_key="condition",
        source="ctrl",
        target="stim",
        space=space,
        holdout=None if left_out == RANDOM else ("cell_type", left_out),
        random_state=seed,
        **VARIANTS[variant],
    )
    seconds = time.perf_counter() - start
    table = model.evaluation.assign(variant=variant, space=space, left_out=left_out, seed=seed, seconds=seconds)
    table["method"] = np.where(table["method"].isin(BASELINES), table["method"], variant)
    return table


def tabulate(work: Path) -> str:
    """Means over cell types, by cell type, and what a random test part gives; mean and spread over seeds."""
    table = pd.concat([pd.read_csv(path) for path in sorted(work.glob("scores-*.csv"))])
    table.loc[table["method"].isin(["identity", "mean change"]), ["space", "mmd_latent"]] = ["genes", np.nan]
    table = table.drop_duplicates(["method", "space", "left_out", "seed"])
    types = table[table["left_out"] != RANDOM]
    # Means are over all types, so seeds that have not been through all of them wait.
    n_types = types.groupby(["space", "method", "seed"])["left_out"].transform("nunique")
    types = types[n_types == n_types.max()]
    lines = []
    for title, part in {"mean over cell types": types, RANDOM: table[table["left_out"] == RANDOM]}.items():
        lines += [
            "",
            title,
            "",
            f"| space | method | seeds | {' | '.join(METRICS)} |",
            "|---" * (len(METRICS) + 3) + "|",
        ]
        means = part.groupby(["space", "method", "seed"])[METRICS].mean()
        for (space, name), own in means.groupby(level=[0, 1]):
            cells = [f"{own[m].mean():.3f} ± {own[m].std(ddof=0):.3f}" for m in METRICS]
            lines.append(f"| {space} | {name} | {len(own)} | {' | '.join(cells)} |")
    for metric in ("r2_top50", "pearson_change", "mmd_top50"):
        wide = types.pivot_table(index=["space", "method"], columns="left_out", values=metric)
        lines += ["", metric, wide.round(3).to_string()]
    wide = types.pivot_table(index=["space", "method"], columns="left_out", values="mmd_latent")
    lines += ["", "mmd_latent", wide.round(3).to_string()]
    took = table[~table["method"].isin(BASELINES)].groupby(["space", "variant"])["seconds"]
    return "\n".join([*lines, "", took.agg(["median", "min", "max"]).round(1).to_string()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    usual = [name for name in VARIANTS if not name.startswith("scgen")]
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=usual)
    parser.add_argument("--table", action="store_true", help="only print what was found")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if not args.table:
        adata = load(args.data, args.work)
        groups = [*sorted(adata.obs["cell_type"].unique()), RANDOM]
        for variant in sorted(args.variants, key=lambda name: name in ONE_SEED):
            for seed in range(args.seeds):
                for number, left_out in enumerate(groups):
                    for space in ["scgen"] if variant.startswith("scgen") else SPACES:
                        path = args.work / f"scores-{variant}-{space}-{number}-{seed}.csv"
                        if not path.exists() and not (seed and variant in ONE_SEED):
                            run(adata, variant, space, left_out, seed).to_csv(path, index=False)
    print(tabulate(args.work))


if __name__ == "__main__":
    main()
