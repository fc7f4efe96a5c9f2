"""Rules that choose among the baselines for perturbations; test conditions of the same seed are left out.

    python -m benchmarks.perturbation_choice --data FOLDER

Of the splits of ten seeds the test conditions are taken away. The others are split five times: most are learnt from,
a few choose, the rest judges what was chosen. The network, which starts from the effects of the genes and seldom
leaves them, takes no part.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import scipy.stats

import cellfm as cf
from benchmarks.perturbation import SET, load, markdown
from benchmarks.record import facts, save_results
from cellfm.genes.match import find_genes
from cellfm.tasks._gene_embedding import static_embedding
from cellfm.tasks.perturbation._baselines import (
    ADDITIVE,
    BILINEAR_CELLFM,
    GENE_EFFECTS,
    MEAN,
    baseline,
    principal_vectors,
    vectors_by_name,
)
from cellfm.tasks.perturbation._choice import CONFIDENCE, SLACK, validation_errors
from cellfm.tasks.perturbation._conditions import Condition, read_conditions
from cellfm.tasks.perturbation._metrics import score_conditions
from cellfm.tasks.perturbation._profiles import Profiles, mean_profiles
from cellfm.tasks.perturbation._split import _draw, _with_validation, simulation_split

METHODS = MEAN, ADDITIVE, BILINEAR_CELLFM, GENE_EFFECTS
RULES: dict[str, tuple[str, Callable[[int], float]]] = {"the least error": (GENE_EFFECTS, lambda n: 0.0)} | {
    f"{name}, unless another is better {how}": (name, n_errors)
    for name in (ADDITIVE, GENE_EFFECTS)
    for how, n_errors in (
        ("by one standard error", lambda n: 1.0),
        ("by two standard errors", lambda n: 2.0),
        ("by a t-test at 95 %", lambda n: float(scipy.stats.t.ppf(CONFIDENCE, n - 1))),
    )
}
"""A method, and by how many standard errors of `n` paired differences another must be better."""
N_SEEDS, N_DRAWS, KEPT = 10, 5, 0.75


def predictions(
    profiles: Profiles, train: list[Condition], wanted: list[Condition], vectors: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Mean profiles by method."""
    changes = profiles.changes(tuple(train))
    return {
        name: profiles.control + baseline(name, wanted, train, changes, measured={}, cellfm=vectors) for name in METHODS
    }


def chosen(errors: Mapping[str, np.ndarray], reference: str, n_errors: Callable[[int], float]) -> str:
    """The method that a rule chooses."""
    beaten = {}
    for name, own in errors.items():
        difference = own - errors[reference]
        error = difference.std(ddof=1) / np.sqrt(len(difference))
        if difference.mean() < -n_errors(len(difference)) * error * SLACK:
            beaten[name] = own.mean()
    return min(beaten, key=beaten.__getitem__, default=reference)


def draw(profiles: Profiles, pool: list[Condition], seed: int, vectors: Mapping[str, np.ndarray]) -> list[dict]:
    """What each rule chooses on one draw, and its scores."""
    kept, judged = _draw(pool, KEPT, KEPT, np.random.default_rng(1000 + seed))
    split = _with_validation(kept, judged, np.random.default_rng(seed))
    predicted = predictions(profiles, list(split.train), list(split.validation), vectors)
    observed, top = profiles.means(split.validation), profiles.top(split.validation)
    errors = {name: validation_errors(mean, observed, top) for name, mean in predicted.items()}
    final = predictions(profiles, kept, judged, vectors)
    observed, top = profiles.means(split.test), profiles.top(split.test)
    scores = {name: score_conditions(mean, observed, profiles.control, top).mean() for name, mean in final.items()}
    picks = {f"always {name}": name for name in METHODS}
    picks |= {rule: chosen(errors, *options) for rule, options in RULES.items()}
    named = ["pearson_delta", "mse_top20"]
    return [{"rule": rule, "chosen": pick} | scores[pick][named].round(5).to_dict() for rule, pick in picks.items()]


def run(data: Path) -> dict:
    model = cf.load_model("mini")
    known = facts(model) | {"file": SET, "n_seeds": N_SEEDS, "n_draws": N_DRAWS}
    adata = load(data)
    labels = set(adata.obs["condition"].astype(str).str.split("+").explode())
    found = read_conditions(adata, adata, "condition", known=labels)
    profiles = mean_profiles(sp.csr_matrix(adata.X), found)
    names = sorted({*found.genes, *adata.var_names})
    ids = find_genes(pd.DataFrame(index=names), model.vocab).ids
    vectors = vectors_by_name(names, principal_vectors(static_embedding(model, ids)))
    rows = []
    for seed in range(N_SEEDS):
        split = simulation_split(found.perturbed, random_state=seed)
        for number in range(N_DRAWS):
            for row in draw(profiles, [*split.train, *split.validation], number, vectors):
                rows.append({"seed": seed, "draw": number} | row)
    return known | {"rows": pd.DataFrame(rows).to_dict("list")}


def table(results: dict) -> str:
    """Means over draws, and differences to the additive model and to the best baseline of each draw."""
    rows = pd.DataFrame(results["rows"])
    wide = rows.pivot(index=["seed", "draw"], columns="rule", values="pearson_delta")
    best = wide[[f"always {name}" for name in (MEAN, ADDITIVE, BILINEAR_CELLFM)]].max(axis=1)
    lines = []
    for rule, own in rows.groupby("rule", sort=False):
        beside = [wide[rule] - other for other in (wide[f"always {ADDITIVE}"], best)]
        differences = [f"{values.mean():+.3f} ± {values.std(ddof=1):.3f}" for values in beside]
        counts = own["chosen"].value_counts()
        picks = "" if rule.startswith("always") else ", ".join(f"{name} {n}" for name, n in counts.items())
        lines.append(
            [rule, f"{own['mse_top20'].mean():.3f}", f"{own['pearson_delta'].mean():.3f}", *differences, picks]
        )
    heads = [
        "what predicts",
        "MSE, top 20",
        "PCC of the change",
        "to additive",
        "to the best of the others, in each draw",
    ]
    return markdown([*heads, "chosen how often"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    save_results("perturbation_choice", run(parser.parse_args().data))


if __name__ == "__main__":
    main()
