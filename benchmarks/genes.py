"""What the genes of `mini` know, against controls: attention, lncRNA markers, modules, function, relations.

    python -m benchmarks.genes --data FOLDER --work FOLDER [--parts attention,lncrnas,modules]

Each part writes a table to `--work` and prints it as Markdown; parts that are there already are only printed.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy.stats import spearmanr

import cellfm as cf
from cellfm.model import CellFM

PBMC = ("pbmc_facs_zheng2017", "kang_ifnb_pbmc")
KEYS = ("static", "contextual")
GO = {
    "bp": "GO_Biological_Process_2021.gmt",
    "cc": "GO_Cellular_Component_2018.gmt",
    "mf": "GO_Molecular_Function_2018.gmt",
}
RESOLUTIONS = (1, 10, 40)
N_SEEDS = 3  # of Leiden
N_DRAWS = 100  # of random modules, for each resolution
N_REPEATS = 5
READERS = {"pbmc_facs_zheng2017": ("CD74", "IRF7"), "kang_ifnb_pbmc": ("STAT1", "IRF7")}
N_CELLS = 400  # that attention is read in
N_NOISES = 3
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
TUNED_ON = {"immune cells": (PBMC[0], "cell_type")}


def embedded(path: Path) -> ad.AnnData:
    adata = ad.read_h5ad(path)
    for key in KEYS:
        cf.tl.embed_genes(adata, kind=key, key_added=key)
    return adata


def function(data: Path) -> pd.DataFrame:
    """Dosage sensitivity: scores of `cf.tl.gene_function`, mean and spread over folds and repeats."""
    table = pd.read_csv(data / "gene_sets" / "dosage_sens_tf_labels.csv")
    sensitive = table.set_index("gene_name")["dosage_sensitive"].eq("Yes")
    adata = embedded(data / f"{PBMC[0]}.h5ad")
    scores = cf.tl.gene_function(adata, sensitive, embedding_keys=KEYS, n_repeats=N_REPEATS)
    return summary(scores, ["auroc", "auprc", "accuracy", "macro_f1"])


def ontology(data: Path, name: str) -> pd.DataFrame:
    """The ten most frequent terms of a part of Gene Ontology, in the same way, one repeat."""
    adata = embedded(data / f"{PBMC[0]}.h5ad")
    gene_sets = data / "gene_sets" / GO[name]
    scores = cf.tl.gene_function(adata, gene_sets, task="multilabel", embedding_keys=KEYS, n_repeats=1)
    return summary(scores, ["auroc", "auprc", "fmax"])


def summary(scores: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Mean and standard deviation over all fits, by features and classifier."""
    found = scores.groupby(["features", "classifier"], sort=False)[metrics].agg(["mean", "std"])
    found.columns = ["_".join(column) for column in found]
    return found.reset_index()


def attention(data: Path) -> pd.DataFrame:
    """What is read most, against what is expressed most, and what other noise in the weights changes of it."""
    mini, rows = cf.load_model("mini"), []
    noisy = [other_noise(mini, seed) for seed in range(N_NOISES)]
    for name, readers in READERS.items():
        adata = ad.read_h5ad(data / f"{name}.h5ad")
        adata = adata[:: max(1, adata.n_obs // N_CELLS)].copy()
        present = [gene for gene in readers if gene in adata.var_names]
        residuals: dict[str, list[np.ndarray]] = {}
        for model in (mini, *noisy):
            cf.tl.embed(adata, model)
            cf.tl.attention(adata, model, min_cells=10, readers=present)
            record = adata.uns["cellfm"]["cellfm_attention"]
            found = record["expression_correlation"].set_index("reader")
            for reader in found.index:
                key = "cellfm_attention" if reader == "CLS" else f"cellfm_attention_{reader}"
                score, control = adata.varm[key][:, 0], adata.varm[f"{key}_expression"][:, 0]
                residuals.setdefault(reader, []).append(score - control)
                residuals.setdefault(f"{reader} embedding", []).append(adata.obsm["X_cellfm"].copy())
                if model is mini:
                    rows.append({"set": name, "reader": reader, "layer": record["attention_layer"]})
                    rows[-1] |= found.loc[reader, ["spearman", "n_shared"]].to_dict()
        for row in (row for row in rows if row["set"] == name):
            (ours, *others), (cells, *theirs) = residuals[row["reader"]], residuals[f"{row['reader']} embedding"]
            known = np.isfinite(ours)
            row["spread of the rest"] = np.std(ours[known])
            row["rest, other noise: spearman"] = np.mean([spearmanr(ours[known], o[known]).statistic for o in others])
            distances = [np.linalg.norm(cells - t) / np.linalg.norm(cells - cells.mean(0)) for t in theirs]
            row["embedding, other noise: change"] = np.mean(distances)
    return pd.DataFrame(rows)


def other_noise(mini: CellFM, seed: int) -> CellFM:
    """`mini` with the random part of the first layer's queries and keys drawn anew (see `cellfm.train._start`)."""
    weights, generator = dict(mini.weights), np.random.default_rng(seed)
    for name in ("query", "key"):
        key = f"backbone.layers.0.attention.{name}.weight"
        weight = weights[key].astype(np.float32)
        noise = np.abs(weight).max(0) < 0.1  # the columns that are made for something are far larger
        weight[:, noise] = generator.standard_normal((len(weight), noise.sum())) * weight[:, noise].std()
        weights[key] = weight
    return CellFM(mini.config, mini.vocab, weights, name=f"noise {seed}")


def modules(data: Path) -> pd.DataFrame:
    """Enriched KEGG terms by set of cells, source and resolution: mean and range over seeds, or over random draws."""
    tables = []
    for name in PBMC:
        adata = embedded(data / f"{name}.h5ad")
        gene_sets = data / "gene_sets" / "KEGG_2021_Human.gmt"
        for seed in range(N_SEEDS):
            draws = N_DRAWS if seed == 0 else 0
            options = {"resolutions": RESOLUTIONS, "embedding_keys": KEYS, "n_random": draws, "random_state": seed}
            cf.tl.compare_modules(adata, gene_sets, **options)
            tables.append(adata.uns["cellfm_module_comparison"].assign(set=name))
    found = pd.concat(tables)
    found["any"] = found["n_enriched"] > 0
    columns = {
        "n_modules": ["mean"],
        "n_tests": ["mean"],
        "n_enriched": ["mean", "min", "max"],
        "n_unique": ["mean"],
        "any": ["mean"],
    }
    found = found.groupby(["set", "source", "resolution"], sort=False).agg(columns)
    found.columns = ["_".join(column) for column in found]
    return found.reset_index()


def lncrnas(data: Path) -> pd.DataFrame:
    """Ranks of known markers beside their controls, how many there are by each, and p-values of shuffled groups."""
    adata = ad.read_h5ad(data / f"{PBMC[0]}.h5ad")
    cf.tl.rank_lncrnas(adata, groupby="cell_type")
    found = adata.uns["cellfm_lncrnas"]
    record = adata.uns["cellfm"]["cellfm_lncrnas"]
    found["by_expression"] = found.groupby("group")["expression_specificity"].rank(ascending=False).astype(int)
    p_values = ["p_adjusted", "expression_p_adjusted", "wilcoxon_p_adjusted"]
    rows = []
    for group, genes in MARKERS.items():
        of_group = found[found["group"] == group].reset_index(drop=True)
        for gene in genes:
            place = of_group.index[of_group["gene"] == gene]
            if len(place):
                row = of_group.loc[place[0]]
                value = f"{place[0] + 1} by attention, {row['by_expression']} by expression, of {len(of_group)}"
                rows.append({"what": f"{gene} in {group}", "value": value} | row[p_values].to_dict())
            else:
                rows.append({"what": f"{gene} in {group}", "value": "not listed"})
    up = found["specificity"] > 0
    passed = {name: (found[name] <= 0.05) & up for name in p_values}
    for name, chosen in passed.items():
        rows.append({"what": f"{name} <= 0.05, of {len(found)} listed", "value": chosen.sum()})
    ours = passed["p_adjusted"]
    for name in p_values[1:]:
        rows.append({"what": f"of ours also by {name}", "value": (ours & passed[name]).sum()})
    rows.append({"what": "layer read", "value": record["attention_layer"]})
    rows.append({"what": "pairs tested", "value": record["n_tested"]})
    rows.append({"what": "specificity, spearman with expression", "value": record["expression_correlation"]})
    tops = [
        set(map(tuple, found.sort_values(by, ascending=False).groupby("group").head(5)[["group", "gene"]].to_numpy()))
        for by in ("specificity", "expression_specificity")
    ]
    rows.append({"what": "top five of each group, shared", "value": f"{len(tops[0] & tops[1])} of {len(tops[0])}"})
    shuffled = np.random.default_rng(0).permutation(adata.obs["cell_type"].to_numpy())
    adata.obs["shuffled"] = pd.Categorical(shuffled)
    cf.tl.rank_lncrnas(adata, groupby="shuffled", min_frac=0, key_added="null")
    null = adata.uns["null"]
    p = np.sort(null["p_value"].to_numpy())
    rows.append({"what": "groups shuffled: share of p <= 0.05", "value": f"{(p <= 0.05).mean():.3f}"})
    rows.append({"what": "groups shuffled: share of p <= 0.5", "value": f"{(p <= 0.5).mean():.3f}"})
    rows.append({"what": "groups shuffled: markers at 0.05", "value": int((null["p_adjusted"] <= 0.05).sum())})
    gap = np.abs(p - (np.arange(len(p)) + 0.5) / len(p)).max()
    rows.append({"what": "groups shuffled: largest gap to uniform", "value": f"{gap:.3f} ({len(p)} p-values)"})
    return pd.DataFrame(rows)


def relations(data: Path) -> pd.DataFrame:
    """How genes of a blood panel relate before and after fine-tuning on immune cells."""
    adata = ad.read_h5ad(data / f"{PBMC[0]}.h5ad")[::10].copy()
    models: dict[str, str | CellFM] = {"before": "mini"}
    for name, (file, labels) in TUNED_ON.items():
        cells = ad.read_h5ad(data / f"{file}.h5ad")
        cells = cells[:: max(1, cells.n_obs // 700)].copy()
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
    "attention": attention,
    "lncrnas": lncrnas,
    "modules": modules,
    "function": function,
    **{name: partial(ontology, name=name) for name in GO},
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
