"""Write the count data sets of a folder as shards over the vocabulary of `mini`.

python -m benchmarks.mini.shards --data FOLDER --out CORPUS [--leave-out NAME,NAME]
"""

import argparse
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from benchmarks.mini.vocabulary import approved_names
from cellfm.corpus._corpus import Corpus
from cellfm.train import write_shards

LEAST_GENES = 20
"""Panels of some hundred genes are wanted too: their cells express few of them."""


VALIDATION = 0.02
"""Share of the cells that training does not see."""


def count_files(data: Path, left_out: list[str]) -> list[Path]:
    """Every h5ad file that holds whole numbers."""
    files = [path for path in sorted(data.glob("*.h5ad")) if path.stem not in left_out]
    return [path for path in files if _holds_counts(path)]


def _holds_counts(path: Path) -> bool:
    values = ad.read_h5ad(path).X.data
    return bool((values == np.rint(values)).all())


def write_corpus(data: Path, out: Path, left_out: list[str]) -> Corpus:
    """Shards of the count files, genes also by the aliases that `gene_info/` tells, as in `corpus.load_corpus`."""
    aliases = pd.Series(approved_names(data / "gene_info")[1])
    names = pd.Series(aliases.index, aliases.to_numpy()).groupby(level=0).agg("|".join)
    table = names.rename_axis("symbol").rename("prev_symbol").reset_index().assign(alias_symbol="")
    with tempfile.TemporaryDirectory() as folder:
        hgnc = Path(folder) / "hgnc.tsv"
        table.to_csv(hgnc, sep="\t", index=False)
        return write_shards(
            count_files(data, left_out),
            out,
            model="mini",
            hgnc=hgnc,
            min_genes=LEAST_GENES,
            validation_fraction=VALIDATION,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--leave-out", default="")
    arguments = parser.parse_args()
    print(write_corpus(arguments.data, arguments.out, arguments.leave_out.split(",")))


if __name__ == "__main__":
    main()
