"""Which numbers of a network find, in control cells alone, the genes that a perturbation will change.

    python -m benchmarks.affected_genes --data FOLDER [--model mini] [-o results.json]

CRISPR activation of single genes (Norman subset, 500 genes): the 20 genes that differ most by Wilcoxon from control are
to be found among those that five control cells express.
"""

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

import cellfm as cf
from benchmarks.contributions import auroc
from benchmarks.record import facts, save_results
from cellfm.cells.input import CellInput, read_input
from cellfm.model import CellFM
from cellfm.tasks.genes import gene_scores, mean_scores
from cellfm.tasks.genes._contributions import without_gene
from cellfm.tl._attention_partners import _with_gene

FILE = "perturb_norman19_sub.h5ad"
N_AFFECTED = 20
MIN_CELLS = 5
SHOWN = {
    "attention, reads, layer 0": "attention, the perturbed gene reads other genes (`cf.tl.attention_partners`)",
    "attention, is read by, layer 0": "attention, other genes read the perturbed gene",
    "contribution along what the gene adds to CLS, layer 0": (
        "contribution along the direction that the perturbed gene adds to CLS"
    ),
    "the same, its size, layer 0": "absolute value of the same",
    "change of what is decoded, its size": "absolute change of the decoded values when the gene is added",
}
"""What the page calls methods."""


def scores_of(model: CellFM, with_gene: CellInput, gene_id: int) -> dict[str, np.ndarray]:
    """Scores of all genes by method, (n_rows,), in control cells that the perturbed gene was put into."""
    ((_, batch),) = with_gene.tokens(model.config.max_genes, 0)
    n_rows, one_group = len(model.vocab) + 1, np.zeros(batch.n_cells, int)
    _, rest = without_gene(batch, np.ones(batch.n_cells, bool), gene_id)
    with_it, without = (model.encode(b, outputs=("cell", "gene_wise")) for b in (batch, rest))
    direction = (with_it.cell - without.cell).mean(0)
    found = {}
    for layer in model.active_layers:
        for reads in (True, False):
            means, _ = mean_scores(
                gene_scores(model, with_gene, gene_id, reads=reads, layer=layer), one_group, 1, n_rows
            )
            found[f"attention, {'reads' if reads else 'is read by'}, layer {layer}"] = np.nan_to_num(means[0, 0])
        taken = model.contributions(batch, direction[None], layer=layer).genes[:, 0]
        contribution = np.bincount(batch.gene_ids, taken, n_rows)
        found[f"contribution along what the gene adds to CLS, layer {layer}"] = contribution
        found[f"the same, its size, layer {layer}"] = np.abs(contribution)
    change = np.bincount(batch.gene_ids, with_it.gene_wise, n_rows) - np.bincount(
        rest.gene_ids, without.gene_wise, n_rows
    )
    found["change of what is decoded, its size"] = np.abs(change)
    table = model.weights["embed.gene"][:n_rows]
    found["cosine of the gene table"] = table @ table[gene_id] / np.maximum(np.linalg.norm(table, axis=1), 1e-9)
    found["expression"] = np.bincount(batch.gene_ids, batch.values, n_rows)
    return found


def judge(model: CellFM, adata: ad.AnnData) -> pd.DataFrame:
    """AUROC by perturbed gene and method."""
    import scanpy as sc

    cells = read_input(adata, model.vocab)
    ids = cells.match.ids
    perturbed = [name for name in adata.obs["condition"].astype(str).unique() if "+" not in name and name != "control"]
    log = adata.copy()
    sc.pp.normalize_total(log, target_sum=1e4)
    sc.pp.log1p(log)
    sc.tl.rank_genes_groups(log, "condition", groups=perturbed, reference="control", method="wilcoxon")
    counts = cells.counts.rows(0, adata.n_obs)[np.flatnonzero(adata.obs["condition"] == "control")]
    expressed = (ids > 0) & (np.asarray((counts > 0).sum(0)).ravel() >= MIN_CELLS)
    rows = []
    for name, gene_id in zip(perturbed, model.vocab.find_symbols(np.array(perturbed, object)), strict=True):
        if gene_id:
            taken = expressed & (ids != gene_id)
            measured = sc.get.rank_genes_groups_df(log, name).set_index("names")["scores"].abs()
            affected = measured.loc[adata.var_names[taken]].nlargest(N_AFFECTED).index
            positive = adata.var_names[taken].isin(affected)
            found = scores_of(model, _with_gene(cells, counts, int(gene_id)), int(gene_id))
            rows += [(name, method, auroc(score[ids[taken]], positive)) for method, score in found.items()]
    return pd.DataFrame(rows, columns=["perturbed", "method", "auroc"])


def table(results: dict) -> str:
    """Mean and standard deviation over the perturbed genes; the best is bold."""
    scores = pd.DataFrame(results["rows"]).groupby("method", sort=False)["auroc"].agg(["mean", "std"])
    texts = [f"{mean:.3f} ± {std:.3f}" for mean, std in scores.to_numpy()]
    best = scores["mean"].argmax()
    texts[best] = f"**{texts[best]}**"
    rows = [f"| {SHOWN.get(method, method)} | {text} |" for method, text in zip(scores.index, texts, strict=True)]
    return "\n".join(["| score | AUROC |", "|---|---|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    model = cf.load_model(args.model)
    known = facts(model) | {"file": FILE}
    rows = judge(model, ad.read_h5ad(args.data / FILE))
    save_results("affected_genes", known | {"rows": rows.to_dict("records")}, args.output)


if __name__ == "__main__":
    main()
