"""The prepared data as shards, without the sets that one training leaves out.

python -m benchmarks.mini.shards --prepared FOLDER --out FOLDER [--leave-out "groups A"]
"""

import argparse
from pathlib import Path

import anndata as ad

from benchmarks.mini.prepare import MIN_GENES
from benchmarks.mini.sets import FOLDS
from cellfm.corpus._corpus import Corpus
from cellfm.train import write_shards

VALIDATION = 0.02
"""Share of the cells that training does not see."""
MIN_CELLS = 30
"""Sets with fewer cells say nothing by contrast."""


def write_corpus(prepared: Path, out: Path, left_out: tuple[str, ...] = ()) -> Corpus:
    """Shards of the files that `prepare.py` wrote."""
    files = [path for path in sorted(prepared.glob("*.h5ad")) if path.stem not in left_out]
    return write_shards(
        [path for path in files if ad.read_h5ad(path, backed="r").n_obs >= MIN_CELLS],
        out,
        hgnc=False,
        min_genes=MIN_GENES,
        columns=["cell_type"],
        validation_fraction=VALIDATION,
        overwrite=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--leave-out", choices=FOLDS)
    arguments = parser.parse_args()
    print(write_corpus(arguments.prepared, arguments.out, FOLDS.get(arguments.leave_out, ())))


if __name__ == "__main__":
    main()
