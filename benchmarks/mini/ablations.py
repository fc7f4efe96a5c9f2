"""The paper's questions on the corpus of `mini`: ablations of ERetNet, depth and the share of hidden values.

    python -m benchmarks.mini.ablations --corpus FOLDER --prepared FOLDER --work FOLDER [--steps N]

Trains small networks from random weights by the paper's masked losses, one change each, on a corpus without the sets of
the fold "sets" (`leave_out.py` writes it), and judges each on those sets. Adds to the results and prints a table.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.mini.leave_out import SCORES, embedded_by, judge
from benchmarks.mini.sets import FOLDS, JUDGED
from benchmarks.record import facts, load_results, save_results
from cellfm.corpus import Corpus
from cellfm.model import CellFM
from cellfm.train import pretrain
from cellfm.train._recipes import model_of

MODEL = {"n_layers": 2, "d_model": 64, "n_heads": 4, "d_value": 16, "max_genes": 2048}
TRAIN = {
    "batch_size": 32,
    "n_chunks": 160,
    "train_genes": 256,
    "learning_rate": 2e-3,
    "warmup_steps": 50,
    "thin_probability": 0.5,
    "panel_probability": 0.5,
    "panel_least": 0.1,
    "dropout": 0.0,
    "clip": "global",
    "n_validation": 400,
    "log_every": 20,
}
VARIANTS: dict[str, tuple[dict, dict]] = {
    "ERetNet, 2 layers": ({}, {}),
    "feed-forward for SGLU": ({"feed_forward": "ffn"}, {}),
    "pre-norm for DeepNorm": ({"norm": "prenorm"}, {}),
    "without the loss of CLS": ({}, {"cell_weight": 0.0}),
    "1 layer": ({"n_layers": 1}, {}),
    "4 layers": ({"n_layers": 4}, {}),
    "6 layers": ({"n_layers": 6}, {}),
    "targets 10 % of the genes": ({}, {"target_fraction": 0.1}),
    "targets 40 % of the genes": ({}, {"target_fraction": 0.4}),
    "decay for linear attention": ({"retention": "decay"}, {}),
}


def measure(corpus: Corpus, prepared: Path, work: Path, name: str, steps: int) -> dict[str, float]:
    """Train one variant, or read what was trained before, and judge it."""
    model, train = VARIANTS[name]
    schedule = {"steps": steps, "validate_every": steps // 4, "checkpoint_every": steps}
    run = work / name.replace(" ", "_").replace("%", "percent")
    start = time.process_time()
    trained = pretrain(corpus, {"model": MODEL | model, "train": TRAIN | train | schedule}, out=run)
    seconds = time.process_time() - start
    log = pd.read_csv(run / "log.csv")
    return {
        "gene": float(log["gene"].tail(10).mean()),
        "cell": float(log["cell"].tail(10).mean()),
        "cells_per_core_second": steps * TRAIN["batch_size"] / seconds,
        **scores_of(trained, prepared),
    }


def scores_of(model: CellFM, prepared: Path) -> dict[str, float]:
    sets = {name: column for group in JUDGED.values() for name, column in group.items() if name in FOLDS["sets"]}
    found = judge(prepared, sets, embedded_by(model))
    return {score: float(np.mean([of_set[score] for of_set in found.values()])) for score in SCORES}


def table(runs: list[dict]) -> str:
    rows = [
        "| network | loss: gene, cell | cells a second of a core | kNN | AvgBio | probe |",
        "|---" * 6 + "|",
    ]
    for run in runs:
        losses = f"{run['gene']:.3f}, {run['cell']:.3f}" if "gene" in run else ""
        speed = f"{run['cells_per_core_second']:.0f}" if "cells_per_core_second" in run else ""
        scores = " | ".join(f"{run[score]:.3f}" for score in SCORES)
        rows.append(f"| {run['network']} | {losses} | {speed} | {scores} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    runs = load_results("ablations", arguments.output)
    corpus = Corpus.open(arguments.corpus)
    for name in ("random weights", *VARIANTS):
        if name not in [run["network"] for run in runs]:
            known = facts()
            if name in VARIANTS:
                found = measure(corpus, arguments.prepared, arguments.work, name, arguments.steps)
            else:
                shape = model_of(MODEL, n_genes=len(corpus.vocab))
                found = scores_of(CellFM(shape, corpus.vocab), arguments.prepared)
            runs.append(known | {"network": name, "steps": arguments.steps, "seed": 0} | found)
            save_results("ablations", runs, arguments.output)
    print(table(runs))


if __name__ == "__main__":
    main()
