"""The recipe of `mini` judged on sets that took no part in it: three trainings, each without some of the sets.

    python -m benchmarks.mini.leave_out --prepared FOLDER --work FOLDER [--config FILE.toml] [--seeds 0 1 2]
        [--folds "groups A" ...] [-o FILE.json] [--whole]

Trains what is missing in `--work`, adds the scores to `benchmarks/results/leave_out.json`: nearest-neighbour accuracy,
AvgBio and a linear probe of the model and of principal components fitted on the very set, mean and spread over seeds.
Embeddings are those of the start; with --whole the model is trained to the end first.
"""

import argparse
import tomllib
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp

from benchmarks.mini.scores import avg_bio, knn_accuracy, principal_components, probe_accuracy
from benchmarks.mini.sets import FOLDS, JUDGED, type_of
from benchmarks.mini.shards import write_corpus
from benchmarks.record import facts, load_results, save_results
from cellfm.cells.tokenize import tokenize
from cellfm.model import CellFM, load_model
from cellfm.train import pretrain
from cellfm.train._recipes import model_of, read_config
from cellfm.train._start import coexpression_start

HERE = Path(__file__).parent
MOST_CELLS = 1000
"""Cells of a set that are judged, drawn once."""
N_FOLDS = 5
SCORES = ("knn", "avg_bio", "probe")
RULE = ("knn", "avg_bio")
"""Scores whose mean decides which weights ship."""
Folds = dict[str, dict[str, dict[str, float]]]
"""Scores by fold and set."""


def judged_cells(prepared: Path, name: str, column: str | None) -> tuple[ad.AnnData, np.ndarray, np.ndarray]:
    """Labelled cells of a set, their labels, and groups whose members may not be neighbours: batches, else fifths."""
    adata = ad.read_h5ad(prepared / f"{name}.h5ad")
    labels = adata.obs["label"].to_numpy(str)
    generator = np.random.default_rng(0)
    cells = np.flatnonzero([type_of(label) != "" for label in labels])
    if len(cells) > MOST_CELLS:
        cells = np.sort(generator.choice(cells, MOST_CELLS, replace=False))
    fifths = generator.integers(0, N_FOLDS, len(cells)).astype(str)
    return adata[cells].copy(), labels[cells], adata.obs[column].to_numpy(str)[cells] if column else fifths


def judge(prepared: Path, sets: dict[str, str | None], embed) -> dict[str, dict[str, float]]:
    """Scores by set of an embedding, a function of AnnData."""
    found = {}
    for name, column in sets.items():
        adata, labels, places = judged_cells(prepared, name, column)
        embedding = embed(adata)
        # A label that other batches lack cannot be voted for there.
        told = np.array([len(np.unique(places[labels == label])) > 1 for label in labels])
        found[name] = {
            "knn": knn_accuracy(embedding[told], labels[told], places[told]),
            "avg_bio": avg_bio(embedding, labels),
            "probe": float(probe_accuracy(embedding, labels, places)[told].mean()),
        }
    return found


def embedded_by(model: CellFM):
    def embed(adata: ad.AnnData) -> np.ndarray:
        ids = model.vocab.find_symbols(adata.var_names.to_numpy(str))
        tokens = tokenize(
            sp.csr_matrix(adata.X), ids, max_genes=model.config.max_genes, values=adata.layers.get("values")
        )
        return model.encode(tokens).cell

    return embed


def trained(prepared: Path, work: Path, fold: str, config: Path, seed: int, *, whole: bool) -> CellFM:
    """The model of a fold, from `work` where it is there."""
    run = work / fold / f"{config.stem} {seed}"
    if (run / "start").exists() and not whole:
        return load_model(run / "start")
    corpus = write_corpus(prepared, work / fold / "corpus", FOLDS[fold])
    fields = tomllib.loads(config.read_text())
    fields["train"]["random_state"] = seed
    if whole:
        return pretrain(corpus, fields, out=run)
    shape, train = read_config(fields)
    model = model_of(shape, n_genes=len(corpus.vocab))
    start = CellFM(model, corpus.vocab, coexpression_start(corpus, model, train), name="start")
    start.save(run / "start")
    return start


def means_of(folds: Folds, chosen: Sequence[str] = tuple(FOLDS)) -> dict[str, float]:
    """Means of the scores over all judged sets of some folds."""
    sets = [scores for fold in chosen for scores in folds[fold].values()]
    return {score: float(np.mean([scores[score] for scores in sets])) for score in SCORES}


def by_way(runs: list[dict]) -> dict[str, list[Folds]]:
    """Finished results by way, a list over seeds."""
    ways: dict[str, list[Folds]] = {}
    for run in runs:
        if all(fold in run["folds"] for fold in FOLDS):
            ways.setdefault(run["way"].partition(", seed")[0], []).append(run["folds"])
    return ways


def table(runs: list[dict]) -> str:
    """A row per method: means over the judged sets of each fold and of all, and of kNN and AvgBio; over seeds mean ±
    standard deviation.
    """
    header = "".join(f" {fold}: kNN, AvgBio, probe |" for fold in (*FOLDS, "all"))
    rows = [f"| method | seeds |{header} mean of kNN and AvgBio |", "|---" * (len(FOLDS) + 4) + "|"]
    for way, seeds in by_way(runs).items():
        cells = []
        for chosen in (*((fold,) for fold in FOLDS), tuple(FOLDS)):
            cells.append(", ".join(spread([means_of(folds, chosen)[score] for folds in seeds]) for score in SCORES))
        cells.append(spread([np.mean([means_of(folds)[score] for score in RULE]) for folds in seeds]))
        rows.append(f"| {way} | {len(seeds)} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def table_of_sets(runs: list[dict]) -> str:
    """A row for each judged set of each fold: both scores of each way, means over seeds."""
    ways = by_way(runs)
    rows = ["| group | set, left out with | " + " | ".join(f"{way}: kNN, AvgBio, probe" for way in ways) + " |"]
    rows.append("|---" * (len(ways) + 2) + "|")
    for group, sets in JUDGED.items():
        for fold, name in product(FOLDS, sets):
            if name in FOLDS[fold]:
                cells = [
                    ", ".join(f"{np.mean([folds[fold][name][score] for folds in seeds]):.3f}" for score in SCORES)
                    for seeds in ways.values()
                ]
                rows.append(f"| {group} | {name}, {fold} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for corpora and runs")
    parser.add_argument("--config", type=Path, default=HERE / "mini.toml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folds", nargs="+", choices=FOLDS, default=list(FOLDS))
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--whole", action="store_true", help="train to the end, not the start alone")
    arguments = parser.parse_args()
    runs = load_results("leave_out", arguments.output)
    columns = {name: column for group in JUDGED.values() for name, column in group.items()}

    def folds_of(way: str) -> Folds:
        return next((run["folds"] for run in runs if run["way"] == way), {})

    def add(way: str, fold: str, embed) -> None:
        if fold not in (folds := folds_of(way)):
            known = facts()
            sets = {name: column for name, column in columns.items() if name in FOLDS[fold]}
            folds |= {fold: judge(arguments.prepared, sets, embed)}
            runs[:] = [run for run in runs if run["way"] != way] + [known | {"way": way, "folds": folds}]
            save_results("leave_out", runs, arguments.output)

    for fold in arguments.folds:
        add("PCA", fold, lambda adata: principal_components(sp.csr_matrix(adata.X)))
        for seed in arguments.seeds:
            way = f"{arguments.config.stem}, seed {seed}" + (", whole" if arguments.whole else "")
            if fold not in folds_of(way):
                model = trained(arguments.prepared, arguments.work, fold, arguments.config, seed, whole=arguments.whole)
                add(way, fold, embedded_by(model))


if __name__ == "__main__":
    main()
