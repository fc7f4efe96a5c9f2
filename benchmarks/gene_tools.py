"""Time and memory of the tools that read genes in cells, with `mini`: contextual embeddings, attention, contributions.

python -m benchmarks.gene_tools [--cells 2000] [--genes 1000]

Each runs in a process of its own, on half of the cells and on all: the difference is the time of the other half,
without start and compilation, and the memory that more cells need.
"""

import argparse
import json
import subprocess
import sys

from benchmarks.record import record

TOOLS = {
    "embed": "cf.tl.embed(adata)",
    "embed_genes, contextual": "cf.tl.embed_genes(adata, kind='contextual')",
    "attention": "cf.tl.attention(adata)",
    "gene_contributions": "cf.tl.gene_contributions(adata, groupby='group')",
}
CODE = """
import json, sys, time
import cellfm as cf
from benchmarks.record import memory_gb
from benchmarks.scaling import cells
adata = cells(int(sys.argv[1]), int(sys.argv[2]))
adata.obs["group"] = ["a", "b"] * (adata.n_obs // 2)
found = []
for part in (adata[: adata.n_obs // 4].copy(), adata[: adata.n_obs // 2].copy(), adata.copy()):
    start = time.perf_counter()
    (lambda adata: CALL)(part)
    found.append((time.perf_counter() - start, memory_gb("VmHWM")))
(_, _), (half, less), (whole, more) = found
print(json.dumps({"seconds": (whole - half) / (adata.n_obs / 2), "memory_gb": more - less}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--genes", type=int, default=1000)
    arguments = parser.parse_args()
    for name, call in TOOLS.items():
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            CODE.replace("CALL", call),
            str(arguments.cells),
            str(arguments.genes),
        ]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        seconds = 10_000 * found["seconds"]
        print(
            f"{name}: {seconds:,.0f} s for 10,000 cells of {arguments.genes:,} genes, {found['memory_gb']:.2f} GB more"
        )
        record(f"gene tools, {name}", seconds=seconds, memory_gb=found["memory_gb"])


if __name__ == "__main__":
    main()
