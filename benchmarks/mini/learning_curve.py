"""What limits `mini`: its start and refinement with fewer data sets, fewer cells, other numbers of steps, other widths.

    python -m benchmarks.mini.learning_curve --corpus FOLDER --prepared FOLDER [--seeds 0 1]

The corpus is one without the sets of the fold "sets" (`leave_out.py` writes it). One thing is changed at a time; each
model is judged on the sets that were left out. Adds to the results, and draws them.
"""

import argparse
import json
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.mini.ablations import scores_of
from benchmarks.mini.leave_out import HERE, SCORES, spread
from benchmarks.record import machine
from cellfm.corpus import Corpus
from cellfm.model import CellFM
from cellfm.train._recipes import model_of, read_config
from cellfm.train._start import coexpression_start

RESULTS = Path(__file__).parents[1] / "results" / "learning_curve.json"
SHARES = (0.125, 0.25, 0.5)
VARIED: dict[str, tuple[float, ...]] = {
    "share of the data sets": SHARES,
    "share of the cells of each data set": SHARES,
    "steps of contrast": (0, 75, 150, 600),
    "width": (128, 512),
}
"""What is changed, and its values; those of the recipe (1, 1, 300 and 256) are measured once."""
RECIPE = {"share of the data sets": 1.0, "share of the cells of each data set": 1.0}
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


def runs(seeds: list[int]) -> Iterator[tuple[str | None, float, int]]:
    for seed in seeds:
        yield None, 1.0, seed
        for varied, values in VARIED.items():
            for value in values:
                yield varied, value, seed


def as_table(results: list[dict]) -> pd.DataFrame:
    """A row for each change and value, the recipe among the values of each change; scores as mean ± sd over seeds."""
    rows = []
    of_recipe = {**RECIPE, "steps of contrast": 300.0, "width": 256.0}
    for result in results:
        for varied in [result["varied"]] if result["varied"] else of_recipe:
            value = result["value"] if result["varied"] else of_recipe[varied]
            rows.append({**result, "varied": varied, "value": value})
    return pd.DataFrame(rows).sort_values(["varied", "value"], kind="stable")


def per_doubling(results: list[dict]) -> pd.DataFrame:
    """Gain of each score for twice the data, steps or width: slope over log2 of all runs (steps from 75 on)."""
    found = as_table(results).query("value > 0")
    slopes = {}
    for varied, rows in found.groupby("varied"):
        log = np.log2(rows["value"])
        slopes[varied] = {score: np.polyfit(log, rows[score], 1)[0] for score in SCORES}
    return pd.DataFrame(slopes).T


def table(results: dict) -> str:
    rows = ["| changed | value | data sets | cells | vote | AvgBio | probe |", "|---" * 7 + "|"]
    for (varied, value), found in as_table(results["results"]).groupby(["varied", "value"]):
        scores = " | ".join(spread(found[score].tolist()) for score in SCORES)
        cells, sets = found[["n_cells", "n_sets"]].mean()
        rows.append(f"| {varied} | {value:g} | {sets:.0f} | {cells:,.0f} | {scores} |")
    rows += ["", "| twice the | vote | AvgBio | probe |", "|---" * 4 + "|"]
    for varied, slopes in per_doubling(results["results"]).iterrows():
        rows.append(f"| {varied} | " + " | ".join(f"{slopes[score]:+.3f}" for score in SCORES) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--prepared", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="only print what was found")
    arguments = parser.parse_args()
    stored = json.loads(arguments.results.read_text()) if arguments.results.exists() else {"results": []}
    if not arguments.table:
        corpus = Corpus.open(arguments.corpus)
        done = {(result["varied"], result["value"], result["seed"]) for result in stored["results"]}
        for varied, value, seed in runs(arguments.seeds):
            if (varied, value, seed) not in done:
                found = measure(corpus, arguments.prepared, varied, value, seed)
                stored["results"].append({"varied": varied, "value": value, "seed": seed, **found})
                stored |= {"date": str(date.today()), "machine": machine()}
                arguments.results.write_text(json.dumps(stored, indent=1) + "\n")
    print(table(stored))


if __name__ == "__main__":
    main()
