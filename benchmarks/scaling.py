"""`cf.tl.embed` with `mini`, AnnData and tokens included: over genes a cell, batch size and number of cells.

python -m benchmarks.scaling
"""

import time

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

import cellfm as cf
from benchmarks.record import record
from benchmarks.synthetic import random_counts

GENES = (250, 500, 1000, 2000, 4000)
BATCHES = (1, 4, 16, 64)
CELLS = (250, 500, 1000, 2000, 4000, 8000)


def cells(n_cells: int, genes_per_cell: int) -> AnnData:
    """Cells that express just so many of the genes that `mini` knows."""
    names = cf.load_model("mini").vocab.symbols
    counts = random_counts(n_cells)
    generator = np.random.default_rng(0)
    columns = np.concatenate(
        [np.sort(generator.choice(len(names), genes_per_cell, replace=False)) for _ in range(n_cells)]
    )
    values = np.resize(counts.data, len(columns))
    matrix = sp.csr_matrix((values, columns, np.arange(n_cells + 1) * genes_per_cell), (n_cells, len(names)))
    return AnnData(matrix, var=pd.DataFrame(index=list(names)))


def seconds_of(adata: AnnData, model: object, repeats: int = 3, **options: int) -> float:
    """The best of some calls."""
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        cf.tl.embed(adata, model, **options)
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    cf.settings.verbosity = "warning"
    model = cf.load_model("mini")
    cf.tl.embed(cells(300, 1000), model)  # compiles
    parts: dict[str, list[tuple[float, float]]] = {"genes a cell": [], "cells at once": [], "cells": []}
    for n_genes in GENES:
        rate = 1000 / seconds_of(cells(1000, n_genes), model)
        parts["genes a cell"].append((n_genes, rate))
        print(f"{n_genes:5} genes a cell: {rate:7.0f} cells/s")
    thousand = cells(1000, 1000)
    for size in BATCHES:
        rate = 1000 / seconds_of(thousand, model, batch_size=size)
        parts["cells at once"].append((size, rate))
        print(f"{size:5} cells at once: {rate:6.0f} cells/s")
    for n_cells in CELLS:
        seconds = seconds_of(cells(n_cells, 1000), model, repeats=2)
        parts["cells"].append((n_cells, seconds))
        print(f"{n_cells:5} cells: {seconds:7.2f} s, {1e3 * seconds / n_cells:.2f} ms a cell")
    slope = np.polyfit(*np.log(np.array(parts["cells"])).T, 1)[0]
    print(f"seconds grow with cells to the power of {slope:.2f}")
    record("scaling", parts=parts, power=float(slope))


if __name__ == "__main__":
    main()
