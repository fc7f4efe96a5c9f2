"""Integration of real batches, beside principal components and the model as it is: one CSV a run, resumable.

python -m benchmarks.integration --data FOLDER --work FOLDER [--sets kang ding ...] [--seeds 3] [--baselines] [--table]
"""

import argparse
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc

import cellfm as cf
from benchmarks.mini.scores import principal_components

SETS = {
    "kang": ("kang_ifnb_pbmc", "condition"),
    "ding": ("pbmc_ding_scannotate", "batch"),
    "pancreas": ("pancreas_cepo", "batch"),
    "scmix": ("scmix_3cellline", "batch"),
    "hao": ("more/pbmc_hao_deconvbench", "donor"),  # the one that `mini` has not seen
}
"""File, and the column of batches; labels are in ``cell_type``."""
VARIANTS: dict[str, dict] = {
    "default": {},
    "without adversary": {"adversary": 0.0},
    "without structure": {"structure": 0.0},
    "without masked values": {"masked": 0.0},
    "with elastic similarity": {"elastic": 1.0},
    "without discrepancy": {"discrepancy": 0.0},
    "adapters in all layers": {"lora_layers": None},
    "all weights": {"method": "full", "learning_rate": 1e-4},
    "harmony": {"method": "harmony"},
}
SHOWN = ["AvgBio", "Batch correction", "Total", "iLISI", "Graph connectivity", "PCR comparison", "seconds"]


def run(data: Path, name: str, variant: str, seed: int) -> pd.DataFrame:
    """Scores of the components, of the model as it is, and after integration."""
    file, batch_key = SETS[name]
    adata = ad.read_h5ad(data / f"{file}.h5ad")
    cf.tl.embed(adata)
    start = time.perf_counter()
    cf.tl.integrate(adata, batch_key=batch_key, random_state=seed, **VARIANTS[variant])
    seconds = time.perf_counter() - start
    table = cf.tl.benchmark(adata, batch_key=batch_key, label_key="cell_type", profile="fast")
    table.loc["X_cellfm_integrated", "seconds"] = seconds
    record = adata.uns["cellfm"]["X_cellfm_integrated"]
    if "history" not in record:
        return table.reset_index()
    print(record["history"].round(4).to_string(index=False))
    return table.assign(best_step=record["best_step"]).reset_index()


def run_baselines(data: Path, name: str) -> pd.DataFrame:
    """Scores of what takes seconds and no model: the mean of each batch removed, and ComBat before the components."""
    file, batch_key = SETS[name]
    adata = ad.read_h5ad(data / f"{file}.h5ad")
    batch = adata.obs[batch_key].astype(str).to_numpy()
    components = principal_components(adata.X)
    adata.obsm["X_pca, batch means removed"] = centred(components, batch)
    adata.obsm["ComBat, X_pca"] = combat_components(adata, batch)
    return cf.tl.benchmark(adata, batch_key=batch_key, label_key="cell_type", embeddings=list(adata.obsm)).reset_index()


def centred(embedding: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """The embedding minus the mean of each cell's batch."""
    table = pd.DataFrame(embedding)
    return (table - table.groupby(batch).transform("mean")).to_numpy(np.float32)


def combat_components(adata: ad.AnnData, batch: np.ndarray) -> np.ndarray:
    """Principal components of the variable genes after ComBat (Johnson 2007)."""
    log = ad.AnnData(adata.X.copy(), obs=pd.DataFrame({"batch": pd.Categorical(batch)}, adata.obs_names))
    sc.pp.filter_genes(log, min_cells=3)
    sc.pp.normalize_total(log, target_sum=1e4)
    sc.pp.log1p(log)
    sc.pp.highly_variable_genes(log, n_top_genes=min(2000, log.n_vars))
    log = log[:, log.var["highly_variable"]].copy()
    log.X = log.X.toarray()
    sc.pp.combat(log, key="batch")
    sc.pp.pca(log, n_comps=50, random_state=0)
    return log.obsm["X_pca"]


def tabulate(work: Path) -> str:
    """Means over seeds, with the spread where there is any."""
    rows = []
    for path in sorted(work.glob("*.csv")):
        name, variant, seed = path.stem.split("-")
        rows.append(pd.read_csv(path).assign(set=name, variant=variant, seed=int(seed)))
    table = pd.concat(rows)
    integrated = table["embedding"] == "X_cellfm_integrated"
    table.loc[~integrated, "variant"] = ""  # what no variant changes is said once
    table = table.drop_duplicates(["set", "embedding", "variant", "seed"])
    groups = table.groupby(["set", "embedding", "variant"], sort=False)[SHOWN]
    means, spread = groups.mean(), groups.std(ddof=0)
    lines = [f"| set | embedding | variant | {' | '.join(SHOWN)} |", "|---" * (len(SHOWN) + 3) + "|"]
    for index in means.index:
        cells = [
            ""
            if pd.isna(means.loc[index, column])
            else f"{means.loc[index, column]:.0f}"
            if column == "seconds"
            else f"{means.loc[index, column]:.3f} ± {spread.loc[index, column]:.3f}"
            for column in SHOWN
        ]
        lines.append(f"| {' | '.join(index)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["default"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--baselines", action="store_true", help="simple corrections alone, which train nothing")
    parser.add_argument("--table", action="store_true", help="only print what was found")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.baselines and not args.table:
        for name in args.sets:
            path = args.work / f"{name}-baselines-0.csv"
            if not path.exists():
                run_baselines(args.data, name).assign(seconds=np.nan).to_csv(path, index=False)
    elif not args.table:
        for variant in args.variants:
            for name in args.sets:
                for seed in range(args.seeds):
                    path = args.work / f"{name}-{variant}-{seed}.csv"
                    if not path.exists():
                        run(args.data, name, variant, seed).to_csv(path, index=False)
    print(tabulate(args.work))


if __name__ == "__main__":
    main()
