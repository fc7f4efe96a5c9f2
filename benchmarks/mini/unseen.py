"""`mini` as shipped on labelled sets that took no part in its training, next to principal components of each set.

    python -m benchmarks.mini.unseen --data FOLDER [--out FILE.json] [--table]

Prints a row a set: nearest-neighbour accuracy and AvgBio.
Cells are embedded as a user does it, by `cf.tl.embed`, and none of them was looked at when the recipe was chosen.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
import scipy.sparse as sp

import cellfm as cf
from benchmarks.mini.corpus import CountSet, principal_components
from benchmarks.mini.evaluate import folds_of, judge
from cellfm.model import CellFM


@dataclass(frozen=True)
class Unseen:
    """A data set, and which of its cells count."""

    name: str
    shown: str
    counts: bool = True
    """Else TPM and the like, which are given to the model as values of the user's own."""
    without: tuple[str, ...] = ()
    """Entries of `cell_type` that are no type."""
    batches: tuple[str, ...] = ()
    """The batches that took no part in training; all of them by default."""


# All sets at hand with a hundred labelled cells or more, two types or more and 50 expressed genes in most cells, that
# share no cell with the training data. Of pbmc_hao, 50 other cells of the study took part in training.
SETS = (
    Unseen("breast_tnbc_wu2021_cid4465", "breast tumour"),
    Unseen("cardiomyocyte_ipsc_timecourse", "iPSC to heart muscle, days"),
    Unseen("pancreas_pdac_cardspa", "pancreas tumour"),
    Unseen("pbmc4k_soupx", "blood, 10x", without=("?",)),
    Unseen("pbmc_hao_deconvbench", "blood, eight donors"),
    Unseen("pollen2014_11celltypes", "eleven cell lines and tissues"),
    Unseen("tissue_aj064_scrnastat", "solid tissue, 617 genes", without=("mito",)),
    Unseen("brain_darmanis2015", "cortex, 572 genes", counts=False),
    Unseen("fetal_cortex_nowakowski_ensdeconv", "fetal cortex, 25 donors, 521 genes", counts=False),
    Unseen("fetal_gonad_male_li2017", "fetal testis, 235 genes", counts=False),
    Unseen("oligodendroglioma_infercnv", "brain tumour, five patients", counts=False),
    Unseen("pancreas_panc8_small_noindrop", "islets, two protocols", counts=False, batches=("celseq", "celseq2")),
)
SCORES = {"knn": "vote", "avg_bio": "AvgBio"}
WAYS = ("random", "mini", "PCA")
PLACES = {"across batches": "other batches", "cross-split": "other fifths"}


def read(data: Path, of: Unseen) -> ad.AnnData:
    """The cells that count, with counts in X, or linear values in X and their logarithm as a layer."""
    (path,) = (path for path in (data / f"{of.name}.h5ad", data / "more" / f"{of.name}.h5ad") if path.exists())
    adata = ad.read_h5ad(path)
    labels = adata.obs["cell_type"].astype(object).where(adata.obs["cell_type"].notna(), "")
    kept = ~labels.isin(("", *of.without))
    if of.batches:
        kept &= adata.obs["batch"].isin(of.batches)
    adata = adata[kept.to_numpy()].copy()
    if not of.counts:
        values = adata.X.copy()
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        adata.layers["log"], adata.X = adata.X.copy(), values
    return adata


def scores_of(of: Unseen, adata: ad.AnnData) -> dict[str, dict[str, float] | str | int]:
    batch = adata.obs["batch"].to_numpy(str) if "batch" in adata.obs else None
    labels = adata.obs["cell_type"].to_numpy(str)
    cells = CountSet(of.name, sp.csr_matrix(adata.X), np.zeros(adata.n_vars, np.int32), labels, batch)
    mini = cf.load_model("mini")
    result = {}
    for way, model in (("random", CellFM(mini.config, mini.vocab)), ("mini", mini)):
        cf.tl.embed(adata, model, values_layer=None if of.counts else "log", min_known_genes=100)
        result[way] = adata.obsm["X_cellfm"]
    result["PCA"] = principal_components(cells.counts)
    facts = {"cells": adata.n_obs, "types": len(np.unique(labels))}
    facts["folds"] = folds_of(cells, np.ones(adata.n_obs, bool))[1]
    return facts | {way: judge(cells, embedding, bio=True) for way, embedding in result.items()}


def tabulate(found: dict[str, dict], ways: Sequence[str] = WAYS) -> str:
    """A row a set, and the means."""
    columns = [(score, way) for score in SCORES for way in ways]

    def line(name: str, facts: str, rows: list[dict]) -> str:
        means = (float(np.mean([row[way][score] for row in rows])) for score, way in columns)
        return f"| {name} | {facts} | {' | '.join(f'{mean:.3f}' for mean in means)} |"

    heads = " | ".join(f"{SCORES[score]}: {way}" for score, way in columns)
    lines = [f"| data set | cells, types | neighbours from | {heads} |", "|---" * (len(columns) + 3) + "|"]
    for counts, what in ((True, "counts"), (False, "TPM and the like")):
        rows = {of: found[of.name] for of in SETS if of.counts == counts and of.name in found}
        for of, row in rows.items():
            facts = f"{row['cells']:,}, {row['types']} | {PLACES[row['folds']]}"
            lines.append(line(f"{of.name}: {of.shown}", facts, [row]))
        if rows:
            lines.append(line(f"**mean of {len(rows)}, {what}**", " | ", list(rows.values())))
    return "\n".join([*lines, line(f"**mean of all {len(found)}**", " | ", list(found.values()))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("unseen.json"))
    parser.add_argument("--sets", nargs="+", choices=[of.name for of in SETS], default=[of.name for of in SETS])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--table", action="store_true", help="only print what was found")
    arguments = parser.parse_args()
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for of in SETS:
        if of.name in arguments.sets and of.name not in found and not arguments.table:
            found[of.name] = scores_of(of, read(arguments.data, of))
            arguments.out.write_text(json.dumps(found, indent=1))
            print(of.name, found[of.name], flush=True)
    print(tabulate(found, arguments.ways))


if __name__ == "__main__":
    main()
