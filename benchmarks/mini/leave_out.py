"""The recipe of `mini` judged on data sets that took no part in it: each left out in turn.

    python -m benchmarks.mini.leave_out --data FOLDER --work FOLDER [--sets NAME,NAME] [--config FILE.toml] [--whole]

Prints a row a set: nearest-neighbour accuracy and AvgBio of random weights, of the model, and of principal components
fitted on the very set. Embeddings are those of the start: the shipped recipe trains the decoders alone after it. With
--whole (or another start) the model is trained to the end; runs that were interrupted go on.
"""

import argparse
import json
from pathlib import Path

from benchmarks.mini.corpus import load_corpus, principal_components
from benchmarks.mini.evaluate import judge, scores_of
from benchmarks.mini.shards import write_corpus
from cellfm.corpus._corpus import Corpus
from cellfm.model import CellFM, load_model
from cellfm.train import pretrain
from cellfm.train._recipes import model_of, read_config
from cellfm.train._start import coexpression_start

RECIPE = Path(__file__).parent / "mini.toml"
LEFT_OUT = (
    "pbmc3k_clustifyr",
    "kang_ifnb_pbmc",
    "crc_tumor_scmetalink",
    "pbmc_ding_scannotate",
    "pancreas_cepo",
    "scmix_3cellline",
    "celllines_hashing_scds",
)


def start_of(corpus: Corpus, config: Path) -> CellFM:
    """The model that the recipe starts from."""
    fields, train = read_config(config)
    model = model_of(fields, n_genes=len(corpus.vocab))
    return CellFM(model, corpus.vocab, coexpression_start(corpus, model, train))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for corpora and runs")
    parser.add_argument("--sets", default=",".join(LEFT_OUT))
    parser.add_argument("--config", type=Path, default=RECIPE)
    parser.add_argument("--whole", action="store_true", help="train to the end, not the start alone")
    arguments = parser.parse_args()
    vocab = load_model("mini").vocab
    by_name = {cells.name: cells for cells in load_corpus(arguments.data, vocab)}
    for name in arguments.sets.split(","):
        corpus = write_corpus(arguments.data, arguments.work / name / "corpus", [name])
        if arguments.whole:
            model = pretrain(corpus, arguments.config, out=arguments.work / name / "run")
        else:
            model = start_of(corpus, arguments.config)
        cells = by_name[name]
        row = {
            "random": scores_of(CellFM(model.config, vocab), cells),
            "mini": scores_of(model, cells),
            "PCA": judge(cells, principal_components(cells.counts), bio=True),
        }
        (arguments.work / f"{name}.json").write_text(json.dumps(row, indent=1))
        shown = " | ".join(f"{row[way][score]:.3f}" for score in ("knn", "avg_bio") for way in row)
        print(f"| {name} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
