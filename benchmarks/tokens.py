"""Cells and tokens per second of tokenization, one process, cells of about 1,000 genes.

python -m benchmarks.tokens
"""

import time

import numpy as np

from benchmarks.record import record
from benchmarks.synthetic import N_GENES, random_counts
from cellfm.cells.tokenize import tokenize


def main(n_cells: int = 5000, repeats: int = 5) -> None:
    counts = random_counts(n_cells)
    ids = np.arange(1, N_GENES + 1, dtype=np.int32)
    ids[::10] = 0  # a tenth of the genes is unknown
    for label, max_genes in (("all cells below max_genes", 2048), ("every cell sampled", 190)):
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            tokens = tokenize(counts, ids, max_genes=max_genes)
            seconds.append(time.perf_counter() - start)
        rate = n_cells / float(np.median(seconds))
        record(f"tokens, {label}", cells_per_second=rate)
        print(
            f"{label}: {rate:,.0f} cells/s, {counts.nnz / n_cells * rate / 1e6:.1f} M values/s "
            f"({len(tokens.gene_ids) / n_cells:.0f} tokens a cell)"
        )


if __name__ == "__main__":
    main()
