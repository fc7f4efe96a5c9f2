"""What limits `mini`: its start and refinement with fewer data sets, fewer cells, other numbers of steps, other widths.

    python -m benchmarks.mini.learning_curve --corpus FOLDER --prepared FOLDER [--seeds 0 1]

The corpus is one without the sets of the fold "sets" (`leave_out.py` writes it). One thing is changed at a time; each
model is judged on the sets that were left out. Adds to the results and prints tables.
"""

import argparse
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.mini.ablations import scores_of
from benchmarks.mini.leave_out import HERE, SCORES, spread
from benchmarks.record import facts, load_results, save_results
from cellfm.corpus import Corpus
from cellfm.model import CellFM
from cellfm.train._recipes import model_of, read_config
from cellfm.train._start import coexpression_start

SHARES = (0.125, 0.25, 0.5)
VARIED: dict[str, tuple[float, ...]] = {
    "share of the data sets": SHARES,
    "share of the cells of each data set": SHARES,
    "steps of contrast": (0, 75, 150, 600),
    "width": (128, 512),
}
RECIPE = {
    "share of the data sets": 1.0,
    "share of the cells of each data set": 1.0,
    "steps of contrast": 300.0,
    "width": 256.0,
}
CHANGES: list[tuple[str | None, float]] = [
    (None, 1.0),
    *((varied, value) for varied, values in VARIED.items() for value in values),
]
"""What is changed, to which value: nothing (the recipe), then one thing at a time."""
LEAST_CELLS = 30
"""Cells that are left of a data set at least."""


class Part:
    """A corpus of which training sees only some cells: the others count as validation cells."""

    def __init__(self, corpus: Corpus, seen: np.ndarray) -> None:
        self._corpus = corpus
        self.validation = corpus.validation | ~seen

    def __getattr__(self, name: str):
        return getattr(self._corpus, name)


def part_of(corpus: Corpus, varied: str, share: float, seed: int) -> Part:
    generator = np.random.default_rng(seed)
    sources = corpus.codes("source")
    names = np.unique(sources)
    if varied == "share of the data sets":
        kept = generator.choice(names, round(share * len(names)), replace=False)
        return Part(corpus, np.isin(sources, kept))
    seen = np.zeros(len(sources), bool)
    for name in names:
        cells = np.flatnonzero((sources == name) & ~corpus.validation)
        n_cells = min(len(cells), max(LEAST_CELLS, round(share * len(cells))))
        seen[generator.choice(cells, n_cells, replace=False)] = True
    return Part(corpus, seen)


def measure(corpus: Corpus, prepared: Path, varied: str | None, value: float, seed: int) -> dict[str, float]:
    """Scores of the recipe with one change, and the cells and data sets that it saw."""
    fields = tomllib.loads((HERE / "mini.toml").read_text())
    fields["train"]["random_state"] = seed
    seen: Corpus | Part = corpus
    if varied == "steps of contrast":
        fields["train"]["refine_steps"] = int(value)
    elif varied == "width":
        # Heads of half the width, as in the recipe; places of profiles as a share of it.
        fields["model"]["d_model"] = int(value)
        fields["train"]["profile_dims"] = int(value) // 16
    elif varied:
        seen = part_of(corpus, varied, value, seed)
    shape, train = read_config(fields)
    model = model_of(shape, n_genes=len(corpus.vocab))
    weights = coexpression_start(seen, model, train)
    return {
        **scores_of(CellFM(model, corpus.vocab, weights), prepared),
        "n_cells": int((~seen.validation).sum()),
        "n_sets": len(np.unique(corpus.codes("source")[~seen.validation])),
    }


def as_table(runs: list[dict]) -> pd.DataFrame:
    """A row for each change, value and seed; the recipe is among the values of each change."""
    rows = []
    for run in runs:
        for varied in [run["varied"]] if run["varied"] else RECIPE:
            rows.append(run | {"varied": varied, "value": run["value"] if run["varied"] else RECIPE[varied]})
    return pd.DataFrame(rows).sort_values(["varied", "value"], kind="stable")


def table(runs: list[dict]) -> str:
    rows = ["| changed | value | data sets | cells | seeds | kNN | AvgBio | probe |", "|---" * 8 + "|"]
    for (varied, value), found in as_table(runs).groupby(["varied", "value"]):
        scores = " | ".join(spread(found[score].tolist()) for score in SCORES)
        cells, sets = found[["n_cells", "n_sets"]].mean()
        rows.append(f"| {varied} | {value:g} | {sets:.0f} | {cells:,.0f} | {len(found)} | {scores} |")
    return "\n".join(rows)


def table_of_slopes(runs: list[dict]) -> str:
    """Gain of each score for twice the data, steps or width: the slope over log2 of all runs but those of no steps."""
    rows = ["| twice the | kNN | AvgBio | probe |", "|---" * 4 + "|"]
    for varied, found in as_table(runs).query("value > 0").groupby("varied"):
        slopes = [np.polyfit(np.log2(found["value"]), found[score], 1)[0] for score in SCORES]
        rows.append(f"| {varied} | " + " | ".join(f"{slope:+.3f}" for slope in slopes) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    runs = load_results("learning_curve", arguments.output)
    corpus = Corpus.open(arguments.corpus)
    for seed in arguments.seeds:
        for varied, value in CHANGES:
            run = {"varied": varied, "value": value, "seed": seed}
            if run not in [{key: done[key] for key in run} for done in runs]:
                known = facts()
                runs.append(known | run | measure(corpus, arguments.prepared, varied, value, seed))
                save_results("learning_curve", runs, arguments.output)
    print(table(runs), table_of_slopes(runs), sep="\n\n")


if __name__ == "__main__":
    main()
