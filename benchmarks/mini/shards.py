"""Write the count data sets of a folder as shards over the vocabulary of `mini`.

python -m benchmarks.mini.shards --data FOLDER --out CORPUS [--leave-out NAME,NAME]
"""

import argparse
from pathlib import Path

import anndata as ad
import numpy as np

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--leave-out", default="")
    arguments = parser.parse_args()
    files = count_files(arguments.data, arguments.leave_out.split(","))
    print(write_shards(files, arguments.out, model="mini", min_genes=LEAST_GENES, validation_fraction=VALIDATION))


if __name__ == "__main__":
    main()
