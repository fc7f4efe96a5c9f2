"""The perturbation behind a state, as in the paper: 20 genes, their 210 singles and pairs, and five random splits.

    python -m benchmarks.reverse_perturbation --data FOLDER [--seeds 5] [--variants NAME ...]

The 20 genes are those among which most conditions of the Norman subset are measured. Seven tenths of these conditions
are learnt from, a sixteenth chooses, the rest is looked for, as with the paper's 33, 3 and 11. All 210 candidates are
predicted, none is measured; their own genes are left out of the comparison.
"""

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

import cellfm as cf
from benchmarks.perturbation import TERMS, VARIANTS, load, markdown, spread
from benchmarks.record import facts, load_results, save_results
from cellfm.tasks._expression import correlation
from cellfm.tasks.perturbation._baselines import ADDITIVE, GENE_EFFECTS
from cellfm.tasks.perturbation._conditions import Condition
from cellfm.tasks.perturbation._predictor import NETWORK, PerturbationPredictor
from cellfm.tasks.perturbation._reverse import all_conditions, chance_of_hits, first_hits, order_of, scores_of

NAME = "reverse_perturbation"
CONTROL = "control"
N_GENES = 20
SHARES = 33 / 47, 3 / 47
"""Of training and validation, as in the paper."""
K = range(1, 11)
N_NEAREST = 10
"""Candidates that a cell votes for."""
RANKED_BY = {"cosine": "PCC of the changes", "euclidean": "L2 of the profiles", "vote": "vote of cells"}


def taken_genes(conditions: list[Condition], n_genes: int = N_GENES) -> list[str]:
    """The genes among which most conditions are: those with least conditions are taken away one by one."""
    genes = {gene for condition in conditions for gene in condition}
    while len(genes) > n_genes:
        within = [condition for condition in conditions if genes.issuperset(condition)]
        genes.remove(min(sorted(genes), key=lambda gene: sum(gene in condition for condition in within)))
    return sorted(genes)


def cells_of(data: Path, seed: int) -> tuple[ad.AnnData, list[str]]:
    """The cells of the conditions within the genes, their parts in `obs`, and the genes."""
    adata = load(data)
    labels = adata.obs["condition"].astype(str)
    conditions = sorted(tuple(sorted(label.split("+"))) for label in set(labels) - {CONTROL})
    genes = taken_genes(conditions)
    kept = [condition for condition in conditions if {*condition} <= {*genes}]
    order = np.random.default_rng(seed).permutation(len(kept))
    n_train, n_validation = (max(1, round(share * len(kept))) for share in SHARES)
    part_of = dict.fromkeys(kept, "test")
    part_of |= {
        kept[i]: "validation" if n >= n_train else "train" for n, i in enumerate(order[: n_train + n_validation])
    }
    adata.obs["part"] = [part_of.get(tuple(sorted(label.split("+"))), "") for label in labels]
    adata.obs.loc[labels == CONTROL, "part"] = "train"
    return adata[adata.obs["part"] != ""].copy(), genes


def votes(cells: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """Candidates from most to least votes of cells for their nearest, as scGPT searches; of equal ones, the nearer."""
    distances = np.linalg.norm(cells[:, None] - changes, axis=2)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :N_NEAREST]
    return np.lexsort((distances.mean(0), -np.bincount(nearest.ravel(), minlength=len(changes))))


def judge(predictor: PerturbationPredictor, adata: ad.AnnData, genes: list[str], seed: int) -> pd.DataFrame:
    """Hits by method, way of ranking and k; and how the change of the first candidate correlates with the state."""
    candidates = all_conditions(genes, predictor.changes)
    # Equal predictions, such as of two genes that training does not have, are in an order that tells nothing.
    candidates = [candidates[i] for i in np.random.default_rng(seed).permutation(len(candidates))]
    used = predictor.others_than(set(genes))
    labels = ["+".join(sorted(label.split("+"))) for label in adata.obs["condition"].astype(str)]
    targets = predictor.split.test
    rows = []
    for method in dict.fromkeys((NETWORK, GENE_EFFECTS, ADDITIVE, predictor.chosen)):
        changes = predictor.changes(candidates, method)[:, used]
        for by in RANKED_BY:
            found = []
            for truth, change in zip(targets, predictor.profiles.changes(targets)[:, used], strict=True):
                if by == "vote":
                    cells = adata.X[np.array(labels) == "+".join(truth)].toarray() - predictor.profiles.control
                    order = votes(cells[:, used], changes)
                else:
                    order = order_of(*scores_of(change, changes), by)
                found.append((*first_hits(order, candidates, truth), correlation(changes[order[0]], change)))
            right, related, first = np.array(found).T
            rows += [(method, by, k, (right <= k).mean(), (related <= k).mean(), first.mean()) for k in K]
    for k in K:
        right, related = np.mean([chance_of_hits(candidates, truth, k) for truth in targets], 0)
        rows.append(("chance", "", k, right, related, np.nan))
    return pd.DataFrame(rows, columns=["method", "by", "k", "correct", "relevant", "first"])


def run(data: Path, variant: str, seed: int) -> dict:
    """One split."""
    adata, genes = cells_of(data, seed)
    model = cf.load_model("mini")
    known = facts(model)
    predictor = cf.tl.fit_perturbation(
        adata,
        model,
        condition_key="condition",
        gene_sets=data / TERMS,
        split="part",
        candidates=genes,
        min_known_genes=50,
        random_state=seed,
        **VARIANTS[variant],
    )
    hits = judge(predictor, adata, genes, seed).round(4)
    parts = {part: ["+".join(c) for c in getattr(predictor.split, part)] for part in ("train", "validation", "test")}
    known |= {"variant": variant, "seed": seed, "chosen": predictor.chosen, "genes": genes, "split": parts}
    return known | {"hits": hits.astype(object).where(hits.notna(), None).to_dict("list")}


def rows_of(runs: list[dict]) -> pd.DataFrame:
    """Hits of all runs, named by what predicts; what does not depend on the variant once."""
    tables: dict[str, list[pd.DataFrame]] = {"chosen": [], NETWORK: [], "": []}
    for run in runs:
        hits = pd.DataFrame(run["hits"]).assign(seed=run["seed"])
        tables["chosen"].append(hits[hits["method"] == run["chosen"]].assign(method=f"chosen, {run['variant']}"))
        tables[NETWORK].append(hits[hits["method"] == NETWORK].assign(method=f"network, {run['variant']}"))
        tables[""].append(hits[hits["method"].isin((GENE_EFFECTS, ADDITIVE, "chance"))])
    joined = pd.concat([table for group in tables.values() for table in group])
    return joined.drop_duplicates(["method", "by", "k", "seed"])


def table(runs: list[dict]) -> str:
    """Hits at some k, mean and standard deviation over splits."""
    shown = [1, 3, 5, 10]
    rows = []
    for (name, by), own in rows_of(runs).groupby(["method", "by"], sort=False):
        hits = [spread(own.loc[own["k"] == k, kind]) for kind in ("correct", "relevant") for k in shown]
        first = pd.to_numeric(own.loc[own["k"] == 1, "first"])
        rows.append([name, RANKED_BY.get(by, ""), *hits, "" if first.isna().all() else spread(first, 2)])
    heads = [f"{kind}, k = {k}" if k == 1 else f"k = {k}" for kind in ("correct", "relevant") for k in shown]
    return markdown(["predicted by", "ranked by", *heads, "PCC of the first with the state"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["CellFM genes", "learned genes"])
    arguments = parser.parse_args()
    runs = load_results(NAME)
    for variant in arguments.variants:
        for seed in range(arguments.seeds):
            runs = [run for run in runs if (run["variant"], run["seed"]) != (variant, seed)]
            runs.append(run(arguments.data, variant, seed))
            save_results(NAME, runs)


if __name__ == "__main__":
    main()
