"""What the genes of `mini` know, against controls: function, modules, lncRNA markers.

    python -m benchmarks.genes --data FOLDER --work FOLDER [--parts function,modules,lncrnas,relations]

Each part writes a table to `--work` and prints it as Markdown; parts that are there already are only printed.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

import cellfm as cf
from cellfm.model import CellFM

PBMC = ("pbmc_facs_zheng2017", "pbmc_donorA_zheng2017", "kang_ifnb_pbmc")
KEYS = ("static", "contextual")
GO = {
    "GO BP": "GO_Biological_Process_2021.gmt",
    "GO CC": "GO_Cellular_Component_2018.gmt",
    "GO MF": "GO_Molecular_Function_2018.gmt",
}
RESOLUTIONS = (1, 2, 5, 10, 15, 20, 30, 40, 50, 60)
N_REPEATS = 5
MARKERS = {  # what is known of lncRNAs in blood, by group of pbmc_facs
    "CD19+ B": ("LINC00926",),
    "CD14+ Monocyte": ("NEAT1", "LINC00936"),
    "CD8+/CD45RA+ Naive Cytotoxic": ("RP11-291B21.2",),
    "CD56+ NK": ("C5orf56",),
}
"""LINC00926 is the marker of B cells in most atlases of blood, NEAT1 one of monocytes, RP11-291B21.2 (LINC02446) one of
naive CD8 T cells."""

PANEL = {  # genes that are known to belong to one kind of blood cell
    "T": ("CD3D", "CD3E", "CD3G", "CD2", "LCK", "IL7R", "CD27", "TRAT1"),
    "B": ("CD19", "MS4A1", "CD79A", "CD79B", "BANK1", "CD22", "VPREB3", "TCL1A"),
    "NK": ("GNLY", "NKG7", "KLRD1", "GZMB", "PRF1", "KLRF1", "FGFBP2", "SPON2"),
    "monocyte": ("LYZ", "CD14", "S100A8", "S100A9", "FCN1", "CST3", "VCAN", "MS4A6A"),
}
TUNED_ON = {"immune cells": (PBMC[0], "cell_type"), "pancreas": ("pancreas_cepo", "cell_type")}


def embedded(path: Path) -> ad.AnnData:
    adata = ad.read_h5ad(path)
    for key in KEYS:
        cf.tl.embed_genes(adata, kind=key, key_added=key)
    return adata


def function(data: Path) -> pd.DataFrame:
    """Scores of `cf.tl.gene_function`, mean and spread over folds and repeats."""
    adata = embedded(data / f"{PBMC[0]}.h5ad")
    sets = data / "gene_sets"
    table = pd.read_csv(sets / "dosage_sens_tf_labels.csv")
    sensitive = table.set_index("gene_name")["dosage_sensitive"].eq("Yes")
    tasks = {"dosage-sensitive TFs": (sensitive, "binary")}
    tasks |= {name: (sets / file, "multilabel") for name, file in GO.items()}
    tables = []
    for name, (labels, task) in tasks.items():
        many = task == "multilabel"
        options = {"n_repeats": 1, "n_epochs": 30, "learning_rate": 1e-3} if many else {"n_repeats": N_REPEATS}
        scores = cf.tl.gene_function(adata, labels, task=task, embedding_keys=KEYS, **options)
        metrics = ["auroc", "auprc", "fmax"] if many else ["auroc", "auprc", "accuracy", "macro_f1"]
        found = scores.groupby(["features", "classifier"], sort=False)[metrics].agg(["mean", "std"])
        found.columns = ["_".join(column) for column in found]
        tables.append(found.reset_index().assign(task=name))
    return pd.concat(tables, ignore_index=True)


def modules(data: Path) -> pd.DataFrame:
    """Enriched KEGG terms by set of cells, source and resolution; random modules as their mean."""
    tables = []
    for name in PBMC:
        adata = embedded(data / f"{name}.h5ad")
        gene_sets = data / "gene_sets" / "KEGG_2021_Human.gmt"
        cf.tl.compare_modules(adata, gene_sets, resolutions=RESOLUTIONS, embedding_keys=KEYS)
        found = adata.uns["cellfm_module_comparison"]
        columns = ["n_modules", "n_enriched", "n_shared", "n_unique"]
        tables.append(
            found.groupby(["source", "resolution"], sort=False)[columns].mean().reset_index().assign(set=name)
        )
    return pd.concat(tables, ignore_index=True)


def lncrnas(data: Path) -> pd.DataFrame:
    """Ranks of known markers, agreement with Wilcoxon, and p-values when the groups mean nothing."""
    adata = ad.read_h5ad(data / f"{PBMC[0]}.h5ad")
    cf.tl.rank_lncrnas(adata, groupby="cell_type")
    found = adata.uns["cellfm_lncrnas"]
    rows = []
    for group, genes in MARKERS.items():
        of_group = found[found["group"] == group].reset_index(drop=True)
        for gene in genes:
            place = of_group.index[of_group["gene"] == gene]
            row = of_group.loc[place[0]] if len(place) else None
            rows.append(
                {
                    "what": f"{gene} in {group}",
                    "value": f"rank {place[0] + 1} of {len(of_group)}" if row is not None else "not found",
                    "p_adjusted": np.nan if row is None else row["p_adjusted"],
                    "wilcoxon_p_adjusted": np.nan if row is None else row["wilcoxon_p_adjusted"],
                }
            )
    ours, theirs = found["p_adjusted"] <= 0.05, found["wilcoxon_p_adjusted"] <= 0.05
    positive = found["specificity"] > 0
    rows.append({"what": "markers, adjusted p <= 0.05", "value": f"{int(ours.sum())} of {len(found)}"})
    rows.append({"what": "by Wilcoxon, of those above the others", "value": f"{int((theirs & positive).sum())}"})
    rows.append({"what": "found by both", "value": f"{int((ours & theirs).sum())}"})
    shuffled = np.random.default_rng(0).permutation(adata.obs["cell_type"].to_numpy())
    adata.obs["shuffled"] = pd.Categorical(shuffled)
    cf.tl.rank_lncrnas(adata, groupby="shuffled", min_frac=0, key_added="null")
    p = np.sort(adata.uns["null"]["p_value"].to_numpy())
    rows.append({"what": "groups shuffled: share of p <= 0.05", "value": f"{(p <= 0.05).mean():.3f}"})
    rows.append({"what": "groups shuffled: share of p <= 0.5", "value": f"{(p <= 0.5).mean():.3f}"})
    gap = np.abs(p - (np.arange(len(p)) + 0.5) / len(p)).max()
    rows.append({"what": "groups shuffled: largest gap to uniform", "value": f"{gap:.3f} ({len(p)} p-values)"})
    return pd.DataFrame(rows)


def relations(data: Path) -> pd.DataFrame:
    """How genes of a blood panel relate before and after fine-tuning on immune and on other cells."""
    adata = ad.read_h5ad(data / f"{PBMC[0]}.h5ad")
    models: dict[str, str | CellFM] = {"before": "mini"}
    for name, (file, labels) in TUNED_ON.items():
        cells = ad.read_h5ad(data / f"{file}.h5ad")
        models[name] = cf.tl.fit_annotator(cells, labels_key=labels, method="full").model
    kind_of = {gene: kind for kind, genes in PANEL.items() for gene in genes}
    rows = []
    for embedding in KEYS:
        for name, model in models.items():
            cf.tl.embed_genes(adata, model, kind=embedding, key_added=name)
            cf.tl.gene_network(adata, list(kind_of), embedding_keys=[name], n_neighbors=len(kind_of))
            pairs = adata.uns["cellfm_gene_network"]
            alike = pairs["gene"].map(kind_of) == pairs["other"].map(kind_of)
            both = pd.concat([pairs, pairs.rename(columns={"gene": "other", "other": "gene"})])
            nearest = both.sort_values(name, ascending=False).groupby("gene").head(3)
            rows.append(
                {
                    "embedding": embedding,
                    "fine-tuned on": name,
                    "genes": pairs[["gene", "other"]].stack().nunique(),
                    "cosine of one kind": pairs.loc[alike, name].mean(),
                    "of two kinds": pairs.loc[~alike, name].mean(),
                    "three nearest of the same kind": (
                        nearest["gene"].map(kind_of) == nearest["other"].map(kind_of)
                    ).mean(),
                }
            )
    return pd.DataFrame(rows)


PARTS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "function": function,
    "modules": modules,
    "lncrnas": lncrnas,
    "relations": relations,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the tables")
    parser.add_argument("--parts", default=",".join(PARTS))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for part in arguments.parts.split(","):
        path = arguments.work / f"{part}.csv"
        if not path.exists():
            PARTS[part](arguments.data).to_csv(path, index=False)
        table = pd.read_csv(path)
        print(f"\n## {part}\n")
        print("| " + " | ".join(table) + " |\n" + "|---" * table.shape[1] + "|")
        for row in table.itertuples(index=False):
            print("| " + " | ".join(f"{x:.3g}" if isinstance(x, float) else str(x) for x in row) + " |", flush=True)


if __name__ == "__main__":
    main()
