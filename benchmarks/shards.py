"""Shards: rate and peak memory of writing them from an .h5ad file, rate of reading at random, bytes a cell.

python -m benchmarks.shards                       200,000 cells of about 1,000 genes; needs 3 GB of disk
python -m benchmarks.shards --cells 20000 --format zarr
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from benchmarks.record import record
from benchmarks.synthetic import N_GENES, random_counts

CHUNK = 10_000
WRITE = """
import json, re, sys, time
from cellfm.train import write_shards
start = time.perf_counter()
corpus = write_shards(sys.argv[1], sys.argv[2], model=sys.argv[3])
seconds = time.perf_counter() - start
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])  # kB, of this program alone
size = sum(file["bytes"] for shard in corpus.manifest["shards"] for file in shard["files"].values())
facts = {"seconds": seconds, "peak_gb": peak / 1e6, "bytes": size, "n": corpus.n_cells, "tokens": corpus.n_tokens}
print(json.dumps(facts))
"""
READ = """
import json, re, sys, time
import numpy as np
from cellfm.corpus import Corpus
start = time.perf_counter()
corpus = Corpus.open(sys.argv[1])
corpus.lengths
opened = time.perf_counter() - start
generator = np.random.default_rng(0)
rates = []
for _ in range(5):
    batches = generator.integers(0, corpus.n_cells, (40, 256))
    start = time.perf_counter()
    for batch in batches:
        corpus.counts(batch)
    rates.append(batches.size / (time.perf_counter() - start))
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
print(json.dumps({"opened": opened, "rate": float(np.median(rates)), "rates": rates, "peak_gb": peak / 1e6}))
"""


def write_input(path: Path, n_cells: int) -> None:
    """An .h5ad or .zarr file of different cells, written in pieces."""
    import h5py
    import zarr
    from anndata import AnnData
    from anndata.io import sparse_dataset, write_elem

    counts = random_counts(CHUNK)
    counts.data[::1000] = 300  # real cells have such counts, and a byte does not hold them
    obs = pd.DataFrame({"cell_type": pd.Categorical(np.array(["a", "b"])[np.arange(n_cells) % 2])})
    obs.index = obs.index.astype(str)
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(N_GENES)])
    group = h5py.File(path, "w") if path.suffix == ".h5ad" else zarr.open_group(path, mode="w", zarr_format=2)
    write_elem(group, "/", AnnData(obs=obs, var=var))
    for first in range(0, n_cells, CHUNK):
        # The same genes with other counts are other cells.
        part = sp.csr_matrix((np.roll(counts.data, first // CHUNK), counts.indices, counts.indptr), counts.shape)
        part = part[: n_cells - first]
        if first:
            sparse_dataset(group["X"]).append(part)
        else:
            write_elem(group, "X", part)
    if path.suffix == ".h5ad":
        group.close()


def run(code: str, *arguments: object) -> dict:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--format", choices=("h5ad", "zarr"), default="h5ad")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, table, corpus = (
            Path(folder, f"cells.{arguments.format}"),
            Path(folder, "genes.csv"),
            Path(folder, "corpus"),
        )
        pd.DataFrame({"HGNC_gene": [f"GENE{i}" for i in range(N_GENES)]}).to_csv(table, index=False)
        write_input(path, arguments.cells)
        facts = run(WRITE, path, corpus, table)
        record("shards, write", **facts)
        print(
            f"write, {facts['n']:,} cells of {facts['tokens'] / facts['n']:,.0f} genes: "
            f"{facts['n'] / facts['seconds']:,.0f} cells/s, peak {facts['peak_gb']:.2f} GB, "
            f"{facts['bytes'] / facts['n']:,.0f} bytes a cell ({facts['bytes'] / facts['tokens']:.3f} a count)"
        )
        facts = run(READ, corpus)
        record("shards, read", **facts)
        print(
            f"read at random, batches of 256: {facts['rate']:,.0f} cells/s ({min(facts['rates']):,.0f} to "
            f"{max(facts['rates']):,.0f}), opened in {facts['opened']:.2f} s, peak {facts['peak_gb']:.2f} GB"
        )


if __name__ == "__main__":
    main()
