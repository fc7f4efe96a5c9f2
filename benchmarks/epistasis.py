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
from cellfm.tasks.perturbation._conditions import Condition, name_of
from cellfm.tasks.perturbation._predictor import PerturbationPredictor

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
    network, additive, chosen = (predictor.changes(tested, method) for method in ("network", "additive", None))
    shifted = [alike(pair) for pair in tested]
    found, missing = (network - additive)[shifted].ravel(), (true - additive)[shifted].ravel()
    return {
        "additive": float(((additive - true) ** 2).mean()),
        "network": float(((network - true) ** 2).mean()),
        "chosen": float(((chosen - true) ** 2).mean()),
        "is network": float(predictor.chosen == "network"),
        "mean change": float(((predictor.profiles.changes(predictor.learnt).mean(0) - true) ** 2).mean()),
        "departure": float(np.corrcoef(found, missing)[0, 1]) if found.any() else 0.0,
        "epoch": float(predictor.history["kept"].idxmax()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    cf.settings.verbosity = "error"
    rows = []
    for name, epistasis in (("additive", 0.0), ("epistasis", SHIFT)):
        for variant, options in VARIANTS.items():
            found = []
            for seed in range(arguments.seeds):
                adata, truth = synthetic(epistasis, seed)
                predictor = cf.tl.fit_perturbation(
                    adata, condition_key="condition", split="part", min_known_genes=50, random_state=seed, **options
                )
                found.append(judge(predictor, truth))
            table = pd.DataFrame(found)
            errors = [spread(table[column], 4) for column in ("mean change", "additive", "network", "chosen")]
            chosen = f"{table['is network'].sum():.0f} of {len(table)}"
            rows.append([name, variant, *errors, chosen, spread(table["departure"], 2), spread(table["epoch"], 1)])
    header = ["data", "network with", "error: mean change", "additive", "network", "chosen"]
    header += ["network is chosen", "departure found", "epoch"]
    print(markdown(header, rows))


if __name__ == "__main__":
    main()
