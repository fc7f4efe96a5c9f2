"""Which numbers of a network find the genes that tell cells apart: attention, contributions, gradients, deletion.

    python -m benchmarks.contributions --data FOLDER [--models mini PATH ...] [--sets kang ding hao] [-o results.json]

Every score is computed from one half of the cells and judged by what is known of the groups: published markers, and
genes expressed differently in the other half. AUROC of each group over all genes that ten cells express, as it is and
after what mean expression and its specificity explain of it (by ranks) is taken away.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy.stats import rankdata, spearmanr

import cellfm as cf
from benchmarks.record import facts, load_results, save_results
from cellfm.cells.chunk import chunk_cells, fill_batches
from cellfm.cells.input import CellInput, read_input
from cellfm.cells.obs import cell_groups
from cellfm.cells.tokenize import TokenBatch
from cellfm.model import CellFM
from cellfm.model._embed import embed_cells
from cellfm.nn.parameters import merged_weights
from cellfm.nn.weights import nest
from cellfm.tasks._expression import log_normalised
from cellfm.tasks.genes import Contrast, cls_scores, contrasts, mean_contributions, mean_scores

CONTROLS = "expression", "expression, above that in the others"
MEASURED, LNCRNAS = "differential expression", "differential lncRNAs"
MIN_CELLS = 10
MIN_POSITIVES = 5
MAX_CELLS = 200  # that scores are computed from, by default
N_MEASURED = 50  # genes of a group
BLOCK, N_CHUNKS = 16, 96  # cells and chunks, of which gradients are computed at once
DELETION_CELLS = 4  # of each group
DELETION_OTHERS = 200  # genes beside published ones

AZIMUTH = {
    "B": "MS4A1 TNFRSF13B IGHM IGHD AIM2 CD79A LINC01857 RALGPS2 BANK1 CD79B COCH SSPN TEX9 TNFRSF13C LINC01781 IL4R "
    "CXCR4 BTG1 TCL1A YBX3",
    "CD4 T": "TCF7 CD4 CCR7 IL7R FHIT LEF1 MAL NOSIP LDHB PIK3IP1 TMSB10 ITGB1 LTB TRAC AQP3 IL32",
    "CD8 T": "CD8B S100B CCR7 RGS10 NOSIP LINC02446 LEF1 CRTAM CD8A OXNAD1 ANXA1 KRT1 YBX3 IL7R TRAC NELL2 LDHB CCL5 "
    "GZMH KLRD1 NKG7 GZMK CST7 TRGC2",
    "CD14 monocyte": "S100A9 CTSS S100A8 LYZ VCAN S100A12 IL1B CD14 G0S2 FCN1",
    "CD16 monocyte": "CDKN1C FCGR3A PTPRC LST1 IER5 MS4A7 RHOC IFITM3 AIF1 HES4",
    "NK": "GNLY TYROBP NKG7 FCER1G GZMB TRDC PRF1 FGFBP2 SPON2 KLRF1",
}
"""Markers of the Azimuth reference of human PBMC, level 2 (Hao 2021): naive, memory and effector subtypes joined."""
SETS = {
    "kang": (
        "kang_ifnb_pbmc.h5ad",
        "cell_type",
        {
            "B cells": "B",
            "CD4 T cells": "CD4 T",
            "CD8 T cells": "CD8 T",
            "CD14+ Monocytes": "CD14 monocyte",
            "FCGR3A+ Monocytes": "CD16 monocyte",
        },
    ),
    "kang, stimulated": ("kang_ifnb_pbmc.h5ad", "condition", {"stim": "interferon"}),
    "ding": (
        "pbmc_ding_scannotate.h5ad",
        "cell_type",
        {"B cell": "B", "Cytotoxic T cell": "CD8 T", "CD16+ monocyte": "CD16 monocyte"},
    ),
    "facs": (
        "pbmc_facs_zheng2017.h5ad",
        "cell_type",
        {
            "CD19+ B": "lncRNA",
            "CD34+": "lncRNA",
            "CD56+ NK": "lncRNA",
            "CD14+ Monocyte": "lncRNA",
            "CD8+ Cytotoxic T": "lncRNA",
            "CD8+/CD45RA+ Naive Cytotoxic": "lncRNA",
        },
    ),
    "hao": ("pbmc_tiny_hao2021.h5ad", "celltype.l1", {"B": "B", "NK": "NK"}),
}
"""File, column of groups, and what each group is; ``lncRNA`` asks for differential lncRNAs among lncRNAs alone."""


def lncrnas() -> np.ndarray:
    """Symbols of the vocabulary of `mini`, which knows biotypes."""
    genes = cf.load_model("mini").vocab.genes
    return genes.loc[genes["biotype"] == "lncRNA", "symbol"].to_numpy(object)


def published(data: Path) -> dict[str, dict[str, list[str]]]:
    """Genes of each type by source."""
    sets = dict(line.split("\t", 1) for line in (data / "gene_sets" / "h.all.v7.0.symbols.gmt").open())
    hallmark = {"interferon": sets["HALLMARK_INTERFERON_ALPHA_RESPONSE"].split()[1:]}
    return {
        "Azimuth": {name: genes.split() for name, genes in AZIMUTH.items()},
        "Hallmark": hallmark,
    }


def differential(cells: CellInput, groups: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    """Rows that a group expresses more than the others, the most significant by Wilcoxon, in their order.

    The adjusted p is 0.05 or less, and expression at least twice as much.
    """
    import scanpy as sc

    known = groups >= 0
    values = log_normalised(cells.counts.rows(0, cells.counts.n_cells)[known])
    table = ad.AnnData(values, obs={"group": pd.Categorical.from_codes(groups[known], names)})
    sc.tl.rank_genes_groups(table, "group", method="wilcoxon")
    found = {}
    for name in names:
        one = sc.get.rank_genes_groups_df(table, name, pval_cutoff=0.05, log2fc_min=1)
        found[name] = one["names"].astype(int).to_numpy()
    return found


def scores_of(model: CellFM, cells: CellInput, groups: np.ndarray, names: list[str], known: np.ndarray) -> dict:
    """Scores by method and layer, each (n_groups, n_rows) by gene id, and which genes `judge` takes."""
    n_rows = len(model.vocab) + 1
    compared = contrasts(embed_cells(model, cells), groups, names, names, None, None)
    sizes = np.bincount(groups[groups >= 0], minlength=len(names))[:, None]
    found: dict[tuple[str, int | None], np.ndarray] = {}
    for layer in model.active_layers:
        of_genes, _ = mean_contributions(model, cells, compared, layer=layer)
        own, others = of_genes[:, 0], of_genes[:, 1]
        found["contribution", layer] = own[:, 0]
        found["contribution, above that in the others", layer] = own[:, 0] - others[:, 0]
        means, number = mean_scores(cls_scores(model, cells, layer=layer), groups, len(names), n_rows)
        read = np.nan_to_num(means[0])
        summed = read * number
        outside = (summed.sum(0) - summed) / (sizes.sum() - sizes)
        found["attention", layer] = read
        found["attention, 0 where not expressed", layer] = summed / sizes
        found["attention, above that in the others", layer] = summed / sizes - outside
    expression, theirs = own[:, 1], others[:, 1]
    universe = (of_genes[0, :, 2].sum(0) >= MIN_CELLS) & (np.arange(n_rows) > 0)
    found["expression", None] = expression
    found["expression, above that in the others", None] = expression - theirs
    found["expression, log2 fold", None] = np.log2((np.expm1(expression) + 1e-9) / (np.expm1(theirs) + 1e-9))
    of_tokens, of_values = gradients(model, cells, compared)
    found["gradient times token", None], found["gradient times value", None] = of_tokens, of_values
    generator = np.random.default_rng(0)
    others = np.setdiff1d(np.flatnonzero(universe), known)
    sample = np.union1d(known, generator.choice(others, min(DELETION_OTHERS, len(others)), replace=False))
    if len(known):
        found["deletion", None] = deletions(model, cells, compared, sample)
    return {"scores": found, "universe": universe, "sample": universe & np.isin(np.arange(n_rows), sample)}


def gradients(model: CellFM, cells: CellInput, compared: list[Contrast]) -> tuple[np.ndarray, np.ndarray]:
    """Gradients along a group's direction times tokens, and times values, summed by gene over its cells."""
    import jax

    from cellfm.engines.jax.operations import JaxOperations
    from cellfm.nn.embedding import embed_tokens, gene_rows
    from cellfm.nn.eretnet import eretnet
    from cellfm.nn.layout import cls_of

    xp, config = JaxOperations(), model.config
    weights = jax.device_put(nest(merged_weights(model.weights)))

    @jax.jit
    def parts(p, values, directions, *layout):
        def tokens(values):
            return embed_tokens(xp, config, p["embed"], gene_rows(xp, p["embed"], layout[0]), values, layout[1], layout)

        def along(x):
            return (cls_of(xp, eretnet(xp, config, p["backbone"], x, layout[1], layout), layout) * directions).sum()

        x, pull = jax.vjp(tokens, values)
        gradient = jax.grad(along)(x)
        return (gradient * x).sum(-1), pull(gradient)[0] * values

    sums = np.zeros((2, len(compared), len(model.vocab) + 1))
    group = np.full(cells.counts.n_cells, -1)
    for i, contrast in enumerate(compared):
        group[contrast.cells] = i
    along = np.stack([contrast.direction for contrast in compared])
    for span, batch in cells.tokens(config.max_genes, 0):
        for chosen in fill_batches(batch.lengths, n_chunks=N_CHUNKS, n_slots=BLOCK):
            own = group[span][chosen]
            directions = np.zeros((BLOCK, config.d_model), np.float32)
            directions[: len(chosen)] = along[own] * (own >= 0)[:, None]
            laid = chunk_cells(batch, chosen, n_chunks=N_CHUNKS, n_slots=BLOCK)
            layout = (laid.gene_ids, laid.mask, laid.chunk_cell, laid.cls_row)
            of_token = np.repeat(own, batch.lengths[chosen])
            for total, found in zip(sums, parts(weights, laid.values, directions, *layout), strict=True):
                np.add.at(total, (of_token, batch.gene_ids[laid.source]), np.asarray(found).ravel()[laid.token_row])
    return sums[0], sums[1]


def deletions(model: CellFM, cells: CellInput, compared: list[Contrast], genes: np.ndarray) -> np.ndarray:
    """How far deleting each of some genes moves the embeddings of a few cells of a group back along its direction."""
    effects = np.zeros((len(compared), len(model.vocab) + 1))
    generator = np.random.default_rng(0)
    for i, contrast in enumerate(compared):
        own = np.flatnonzero(contrast.cells)
        few = np.sort(generator.choice(own, min(DELETION_CELLS, len(own)), replace=False))
        ((_, batch),) = cells.take(few).tokens(model.config.max_genes, 0)
        copies, deleted = without_each(batch, genes)
        along = model.encode(copies).cell @ contrast.direction
        whole = np.maximum.accumulate(
            np.where(deleted == 0, np.arange(len(deleted)), 0)
        )  # each cell itself comes first
        np.add.at(effects[i], deleted, (along[whole] - along) / len(few))
    return effects


def without_each(batch: TokenBatch, genes: np.ndarray) -> tuple[TokenBatch, np.ndarray]:
    """Each cell, and it without each of some genes; and the gene that is missing, 0 for none."""
    kept, deleted = [], []
    for start, stop in pairwise(batch.indptr):
        own = np.arange(start, stop)
        for gene in (0, *batch.gene_ids[own][np.isin(batch.gene_ids[own], genes)]):
            kept.append(own[batch.gene_ids[own] != gene])
            deleted.append(gene)
    which, lengths = np.concatenate(kept), np.array([len(tokens) for tokens in kept])
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    return TokenBatch(indptr, batch.gene_ids[which], batch.values[which], lengths.astype(np.float32)), np.array(deleted)


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    n, ranks = positive.sum(), rankdata(score)
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (~positive).sum()))


def left_after(score: np.ndarray, *controls: np.ndarray) -> np.ndarray:
    """Ranks of the score, without what is linear in the ranks of the controls."""
    x = np.column_stack([np.ones(len(score)), *map(rankdata, controls)])
    y = rankdata(score)
    return y - x @ np.linalg.lstsq(x, y, rcond=None)[0]


def judge(
    model: CellFM, adata: ad.AnnData, groupby: str, kinds: dict[str, str], sources: dict, n_cells: int
) -> list[dict]:
    """AUROC of every score, by source of the truth and group."""
    names, groups = cell_groups(adata, groupby)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    scored, other = np.sort(order[: min(n_cells, len(order) // 2)]), np.sort(order[len(order) // 2 :])
    cells = read_input(adata, model.vocab)
    ids = cells.match.ids
    measured = differential(cells.take(other), groups[other], names)
    lncrna = np.isin(ids, model.vocab.find_symbols(lncrnas()))
    truths: dict[tuple[str, str], np.ndarray] = {}
    for name, kind in kinds.items():
        for source, genes in sources.items():
            if kind in genes:
                truths[source, name] = model.vocab.find_symbols(np.array(genes[kind], object))
        rows_of = measured[name]
        if kind == "lncRNA":
            truths[LNCRNAS, name] = ids[rows_of[lncrna[rows_of]]]
        else:
            truths[MEASURED, name] = ids[rows_of[ids[rows_of] > 0][:N_MEASURED]]
    known = [genes[genes > 0] for (source, _), genes in truths.items() if source in sources]
    known = np.unique(np.concatenate([np.empty(0, int), *known]))
    found = scores_of(model, cells.take(scored), groups[scored], names, known)
    rows = []
    for (method, layer), scores in found["scores"].items():
        for (source, name), genes in truths.items():
            taken = found["sample" if method == "deletion" else "universe"]
            if source == LNCRNAS:
                taken = taken & np.isin(np.arange(len(taken)), ids[lncrna])
            i, positive = names.index(name), np.isin(np.flatnonzero(taken), genes)
            if positive.sum() < MIN_POSITIVES:
                continue
            score, *controls = (
                found["scores"][key][i, taken] for key in ((method, layer), *((control, None) for control in CONTROLS))
            )
            row = {"method": method, "layer": layer, "truth": source, "group": name, "n": int(positive.sum())}
            row["auroc"] = auroc(score, positive)
            if method not in CONTROLS:
                row["auroc_left"] = auroc(left_after(score, *controls), positive)
            if method == "contribution" and len(known):
                deleted = found["scores"]["deletion", None][i, found["sample"]]
                row["spearman_deletion"] = float(spearmanr(scores[i, found["sample"]], deleted).statistic)
            rows.append(row)
    return rows


def table(runs: list[dict], column: str = "auroc") -> str:
    """Mean over groups, with least and most, in Markdown: a row for each method, a column for each set and truth."""
    rows = pd.DataFrame([{"set": run["set"]} | row for run in runs for row in run["rows"]]).dropna(subset=[column])
    rows["layer"] = rows["layer"].map(lambda layer: "" if pd.isna(layer) else f", layer {layer:.0f}")
    rows["column"] = rows["set"] + ": " + rows["truth"]
    grouped = rows.groupby(["method", "layer", "column"], sort=False)[column].agg(["mean", "min", "max", "size"])
    text = [f"{a:.2f}" + (f" ({b:.2f} to {c:.2f})" if n > 1 else "") for a, b, c, n in grouped.to_numpy()]
    wide = pd.Series(text, grouped.index).unstack("column")[list(dict.fromkeys(rows["column"]))].fillna("")
    order = list(dict.fromkeys(zip(rows["method"], rows["layer"], strict=True)))
    lines = [f"| | {' | '.join(wide.columns)} |", "|---" * (len(wide.columns) + 1) + "|"]
    lines += [f"| {method}{layer} | {' | '.join(wide.loc[(method, layer)])} |" for method, layer in sorted(order)]
    return "\n".join(lines)


def table_left(runs: list[dict]) -> str:
    """What is left after regressing on expression."""
    return table(runs, "auroc_left")


def table_deletion(runs: list[dict]) -> str:
    """Rank correlation with deletion."""
    return table(runs, "spearman_deletion")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--models", nargs="+", default=["mini"], metavar="MODEL")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), metavar="SET")
    parser.add_argument("--cells", type=int, default=MAX_CELLS, metavar="N", help="cells that scores are computed from")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    runs = load_results("contributions", args.output)
    for model in map(cf.load_model, args.models):
        for name in args.sets:
            file, groupby, kinds = SETS[name]
            known = facts(model)
            rows = judge(model, ad.read_h5ad(args.data / file), groupby, kinds, published(args.data), args.cells)
            runs = [run for run in runs if (run["model"], run["set"]) != (model.name, name)]
            runs.append(known | {"set": name, "file": file, "most_cells": args.cells, "rows": rows})
            save_results("contributions", runs, args.output)
            print(f"{model.name}, {name}: {len(rows)} rows", flush=True)


if __name__ == "__main__":
    main()
