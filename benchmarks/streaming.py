"""Data larger than memory: peak memory of ``cellfm embed`` over the number of cells, and how fast cells are read.

python -m benchmarks.streaming [--embed 10000 50000 200000] [--read 1000000]

Cells of 500 genes; a million of them need 5 GB of disk. Reading is blocks of an .h5ad file turned into tokens.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

import cellfm as cf
from benchmarks.record import record

N_GENES, GENES_A_CELL, BLOCK = 5_000, 500, 10_000
EMBED = """
import json, re, sys, time
import anndata
import cellfm as cf
model = cf.load_model("mini")
cf.settings.verbosity = "warning"
small = anndata.read_h5ad(sys.argv[1], backed="r")[:300].to_memory()
cf.tl.embed(small, model)  # compiles
memory = lambda field: int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1e6
before = memory("VmRSS")
cells = anndata.read_h5ad(sys.argv[1], backed="r")
start = time.perf_counter()
cf.tl.embed(cells, model)
seconds = time.perf_counter() - start
facts = {"seconds": seconds, "above_gb": memory("VmHWM") - before, "output_gb": cells.obsm["X_cellfm"].nbytes / 1e9}
print(json.dumps(facts))
"""
READ = """
import json, re, sys, time
import anndata
import cellfm as cf
from cellfm.model._embed import read_input
model = cf.load_model("mini")
cells = read_input(anndata.read_h5ad(sys.argv[1], backed="r"), model.vocab)
memory = lambda field: int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1e6
before, start, n = memory("VmRSS"), time.perf_counter(), 0
for _, tokens in cells.tokens(model.config.max_genes, 0):
    n += tokens.n_cells
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "above_gb": memory("VmHWM") - before, "n": n}))
"""


def write_input(path: Path, n_cells: int) -> None:
    """Different cells in an .h5ad file."""
    import h5py

    with h5py.File(path, "w") as file:
        write_cells(file, n_cells)


def write_cells(group: Any, n_cells: int) -> None:
    """Different cells of 500 genes into a group of HDF5 or zarr, in pieces."""
    from anndata import AnnData
    from anndata.io import sparse_dataset, write_elem

    generator = np.random.default_rng(0)
    names = cf.load_model("mini").vocab.symbols[:N_GENES]
    columns = np.sort(generator.random((BLOCK, N_GENES), np.float32).argpartition(GENES_A_CELL, 1)[:, :GENES_A_CELL], 1)
    values = generator.geometric(0.4, columns.size).astype(np.float32)
    indptr = np.arange(BLOCK + 1) * GENES_A_CELL
    obs = pd.DataFrame(index=np.arange(n_cells).astype(str))
    write_elem(group, "/", AnnData(obs=obs, var=pd.DataFrame(index=list(names))))
    if "raw" in group:
        del group["raw"]  # written empty, which is not read
    for first in range(0, n_cells, BLOCK):
        data = np.roll(values, first // BLOCK)  # the same genes with other counts are other cells
        part = sp.csr_matrix((data, columns.ravel(), indptr), (BLOCK, N_GENES))[: n_cells - first]
        if first:
            sparse_dataset(group["X"]).append(part)
        else:
            write_elem(group, "X", part)


def run(code: str, path: Path) -> dict[str, float]:
    ran = subprocess.run([sys.executable, "-c", code, str(path)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(ran.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--embed", type=int, nargs="*", default=[10_000, 50_000, 200_000])
    parser.add_argument("--read", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    arguments = parser.parse_args()
    rows: dict[str, list] = {"embed": [], "read": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cells.h5ad")
        for what, code in (("read", READ), ("embed", EMBED)):
            for n_cells in getattr(arguments, what):
                write_input(path, n_cells)
                facts = run(code, path)
                rows[what].append({"cells": n_cells} | facts)
                print(
                    f"{what:5} {n_cells:9,} cells: {n_cells / facts['seconds']:9,.0f} cells/s, "
                    f"{facts['above_gb']:.2f} GB above the model"
                    + (f", {facts['output_gb']:.2f} of it the result" if what == "embed" else ""),
                    flush=True,
                )
    record("streaming", **rows)


if __name__ == "__main__":
    main()
