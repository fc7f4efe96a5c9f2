"""Shards against the collections of annbatch (scverse), from the same .h5ad file: writing, disk, reading batches.

python -m benchmarks.annbatch [--cells 200000]

Needs ``pip install 'annbatch[zarrs]'``. Batches of 256 cells in random order. annbatch shuffles cells when it writes
them, and reads runs of 512 cells, 32 runs at a time (its defaults), or runs of 16 cells; shards are read cell by
cell at random. Each reader runs in a process of its own, in turns.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.record import record
from benchmarks.shards import WRITE, run, write_input
from benchmarks.synthetic import N_GENES

N_ROUNDS = 3
BATCH = 256
WRITE_COLLECTION = """
import json, re, sys, time
from pathlib import Path
import zarr
from annbatch import DatasetCollection
zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
start = time.perf_counter()
DatasetCollection(sys.argv[2]).add_adatas([sys.argv[1]], shuffle=True)
seconds = time.perf_counter() - start
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
size = sum(path.stat().st_size for path in Path(sys.argv[2]).rglob("*") if path.is_file())
print(json.dumps({"seconds": seconds, "peak_gb": peak / 1e6, "bytes": size}))
"""
READ_COLLECTION = """
import json, re, sys, time
import zarr
from annbatch import DatasetCollection, Loader
zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
run, n_runs, batch = map(int, sys.argv[2:5])
loader = Loader(chunk_size=run, preload_nchunks=n_runs, batch_size=batch, shuffle=True, to=None)
loader.use_collection(DatasetCollection(sys.argv[1]))
start, n_cells = time.perf_counter(), 0
for batch in loader:
    n_cells += batch["X"].shape[0]
seconds = time.perf_counter() - start
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
print(json.dumps({"cells_per_second": n_cells / seconds, "peak_gb": peak / 1e6}))
"""
READ_SHARDS = """
import json, re, sys, time
import numpy as np
from cellfm.corpus import Corpus
corpus, n_batch = Corpus.open(sys.argv[1]), int(sys.argv[2])
start = time.perf_counter()
order = np.random.default_rng(0).permutation(corpus.n_cells)
for first in range(0, corpus.n_cells, n_batch):
    corpus.counts(order[first : first + n_batch])
seconds = time.perf_counter() - start
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
print(json.dumps({"cells_per_second": corpus.n_cells / seconds, "peak_gb": peak / 1e6}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=200_000)
    n_cells = parser.parse_args().cells
    with tempfile.TemporaryDirectory() as folder:
        source, genes = Path(folder, "cells.h5ad"), Path(folder, "genes.csv")
        shards, collection = Path(folder, "corpus"), Path(folder, "collection.zarr")
        pd.DataFrame({"HGNC_gene": [f"GENE{i}" for i in range(N_GENES)]}).to_csv(genes, index=False)
        write_input(source, n_cells)
        written = {"shards": run(WRITE, source, shards, genes), "annbatch": run(WRITE_COLLECTION, source, collection)}
        readers = {
            "shards, cell by cell": (READ_SHARDS, shards, BATCH),
            "annbatch, runs of 512": (READ_COLLECTION, collection, 512, 32, BATCH),
            "annbatch, runs of 16": (READ_COLLECTION, collection, 16, 1024, BATCH),
        }
        rounds = [{name: run(*reader) for name, reader in readers.items()} for _ in range(N_ROUNDS)]
    for name, facts in written.items():
        print(
            f"write, {name}: {n_cells / facts['seconds']:,.0f} cells/s, peak {facts['peak_gb']:.2f} GB, "
            f"{facts['bytes'] / n_cells:,.0f} bytes a cell"
        )
        record(f"annbatch, write, {name}", cells_per_second=n_cells / facts["seconds"], **facts)
    first, *_ = readers
    for name in readers:
        rates = [one[name]["cells_per_second"] for one in rounds]
        ratios = [one[name]["cells_per_second"] / one[first]["cells_per_second"] for one in rounds]
        print(
            f"read, {name}: {np.median(rates):,.0f} cells/s, {np.median(ratios):.2f} x shards "
            f"({min(ratios):.2f} to {max(ratios):.2f}), peak {rounds[-1][name]['peak_gb']:.2f} GB"
        )
        record(f"annbatch, read, {name}", cells_per_second=float(np.median(rates)), ratio=float(np.median(ratios)))


if __name__ == "__main__":
    main()
