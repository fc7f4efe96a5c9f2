"""Perturbations with known effects: additive ones, and pairs of one kind of gene that do more than their sum.

python -m benchmarks.epistasis [--seeds 5]

Cells of 14 perturbed genes, alone and in all pairs. Half of the genes are of T cells, half of monocytes; with epistasis
pairs of one kind share a shift on top of the sum of the two changes. All singles and six tenths of the pairs are learnt
from, a tenth chooses the epoch, three tenths are tested, against the true means. The additive model has no such shift.
"""

import argparse
import itertools

import numpy as np
import pandas as pd
from anndata import AnnData

import cellfm as cf
from benchmarks.perturbation import markdown, spread
from benchmarks.record import facts, save_results
from cellfm.tasks.perturbation._baselines import ADDITIVE, GENE_EFFECTS, MEAN
from cellfm.tasks.perturbation._conditions import Condition, name_of
from cellfm.tasks.perturbation._predictor import NETWORK, PerturbationPredictor

KINDS = (
    ("CD2", "CD3D", "CD3E", "CD7", "IL7R", "LCK", "TRAC"),
    ("CD14", "CST3", "FCN1", "LYZ", "S100A8", "S100A9", "VCAN"),
)
N_MEASURED, N_CELLS = 100, 100
EFFECT, SHIFT, NOISE = 0.3, 0.5, 0.5
VARIANTS: dict[str, dict] = {
    "CellFM genes": {},
    "learned genes": {"genes": "learned", "perturbation": "learned"},
}


def synthetic(epistasis: float, seed: int) -> tuple[AnnData, pd.DataFrame]:
    """Cells with their condition and its part, and the true change of each condition, conditions x genes."""
    generator = np.random.default_rng(seed)
    perturbed = [gene for kind in KINDS for gene in kind]
    known = [name for name in cf.load_model("mini").vocab.symbols if name.isalpha() and name not in perturbed]
    measured = generator.choice(known, N_MEASURED, replace=False)
    effect = dict(zip(perturbed, EFFECT * generator.standard_normal((len(perturbed), N_MEASURED)), strict=True))
    shift = epistasis * generator.standard_normal(N_MEASURED)
    pairs = {name_of(tuple(sorted(pair))): pair for pair in itertools.combinations(perturbed, 2)}
    change = {"ctrl": np.zeros(N_MEASURED)} | effect
    for name, (a, b) in pairs.items():
        change[name] = effect[a] + effect[b] + shift * alike((a, b))
    truth = pd.DataFrame.from_dict(change, orient="index", columns=measured)
    part = pd.Series("train", index=truth.index)
    order = generator.permutation(list(pairs))
    part[order[: len(order) // 10]] = "validation"
    part[order[len(order) // 10 : 4 * len(order) // 10]] = "test"
    conditions = np.repeat(truth.index, N_CELLS)
    base = 4 + generator.random(N_MEASURED)
    values = base + truth.loc[conditions].to_numpy() + NOISE * generator.standard_normal((len(conditions), N_MEASURED))
    obs = pd.DataFrame({"condition": conditions, "part": part[conditions].to_numpy()})
    obs.index = obs.index.astype(str)
    return AnnData(np.maximum(values, 0).astype(np.float32), obs=obs, var=pd.DataFrame(index=measured)), truth


def alike(pair: Condition) -> bool:
    """Whether two genes are of one kind."""
    return any({*pair} <= {*kind} for kind in KINDS)


def judge(predictor: PerturbationPredictor, truth: pd.DataFrame) -> dict[str, float]:
    """Errors of the test conditions against the truth, and how much of what is not additive was found."""
    tested = list(predictor.split.test)
    true = truth.loc[[name_of(pair) for pair in tested]].to_numpy()
    changes = {method: predictor.changes(tested, method) for method in (MEAN, ADDITIVE, GENE_EFFECTS, NETWORK)}
    errors = {method: float(((change - true) ** 2).mean()) for method, change in changes.items()}
    shifted = [alike(pair) for pair in tested]
    found, missing = ((change - changes[ADDITIVE])[shifted].ravel() for change in (changes[NETWORK], true))
    return errors | {
        "chosen": predictor.chosen,
        "departure": float(np.corrcoef(found, missing)[0, 1]) if found.any() else 0.0,
        "epoch": int(predictor.history["kept"].idxmax()),
    }


def table(results: dict) -> str:
    """Mean squared errors, mean and standard deviation over seeds; additive data have no departure to find."""
    shown = (MEAN, ADDITIVE, GENE_EFFECTS, NETWORK)
    rows = []
    for (data, variant), own in pd.DataFrame(results["rows"]).groupby(["data", "variant"], sort=False):
        counts = ", ".join(f"{name} {n}" for name, n in own["chosen"].value_counts().items())
        departure = "" if data == "additive" else spread(own["departure"], 2)
        numbers = [*(spread(own[name], 4) for name in shown), departure, spread(own["epoch"], 1)]
        rows.append([data, variant, *numbers, counts])
    return markdown(["data", "network with", *shown, "departure found", "epoch kept", "chosen how often"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    cf.settings.verbosity = "error"
    rows = []
    known = facts(cf.load_model("mini"))
    for name, epistasis in (("additive", 0.0), ("epistasis", SHIFT)):
        for variant, options in VARIANTS.items():
            for seed in range(arguments.seeds):
                adata, truth = synthetic(epistasis, seed)
                predictor = cf.tl.fit_perturbation(
                    adata, condition_key="condition", split="part", min_known_genes=50, random_state=seed, **options
                )
                rows.append({"data": name, "variant": variant, "seed": seed} | judge(predictor, truth))
    save_results("epistasis", known | {"rows": rows})


if __name__ == "__main__":
    main()
