"""Cells of a zarr store through Dask: cells per second and peak memory, in one process and with one and two workers.

python -m benchmarks.cluster [--cells 50000 200000] [--workers 0 1 2]

Each worker has one core of its own and one thread; 0 workers is this process with all cores. Seconds of the processor
are given for this process and each worker: on a machine that others use, they say more than the clock. Needs
cellfm[dask].
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record import facts, memory_gb, save_results
from benchmarks.streaming import write_cells
from cellfm.cells.matrix import BLOCK_CELLS

CHUNK = 8192


def on_core(dask_worker: object) -> None:
    """On a worker, before it computes: one core."""
    os.sched_setaffinity(0, {int(dask_worker.name) % os.cpu_count()})


def used(dask_worker: object = None) -> tuple[float, float]:
    """Peak memory in GB, and seconds of processor time, of this process."""
    import time

    return memory_gb("VmHWM"), time.process_time()


def measure(path: Path, n_workers: int, *, narrow: bool) -> dict[str, float | list]:
    """Embed a store; a small part of it first, so that everything is compiled."""
    import time
    from contextlib import ExitStack

    import zarr
    from anndata import AnnData
    from anndata.experimental import read_elem_lazy
    from anndata.io import read_elem

    import cellfm as cf
    from cellfm.config import ModelConfig
    from cellfm.model import CellFM

    cf.settings.verbosity = "warning"
    group = zarr.open_group(path, mode="r")
    obs, var = read_elem(group["obs"]), read_elem(group["var"])
    cells = AnnData(read_elem_lazy(group["X"], chunks=(CHUNK, len(var))), obs=obs, var=var)
    model = cf.load_model("mini")
    if narrow:
        model = CellFM(ModelConfig(1, 8, 1, len(model.vocab), d_value=4), model.vocab)
    with ExitStack() as stack:
        client = None
        if n_workers:
            from distributed import Client, LocalCluster

            made = LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address="127.0.0.1:0")
            client = stack.enter_context(Client(stack.enter_context(made)))
            client.run(on_core)
        cf.tl.embed(cells[: 4 * BLOCK_CELLS].copy(), model)
        before = [used(), *(client.run(used).values() if client else [])]
        load, start = os.getloadavg()[0], time.perf_counter()
        cf.tl.embed(cells, model)
        seconds = time.perf_counter() - start
        after = [used(), *(client.run(used).values() if client else [])]
    return {
        "seconds": seconds,
        "cpu_seconds": [late[1] - early[1] for early, late in zip(before, after, strict=True)],
        "before_gb": [early[0] for early in before],
        "peak_gb": [late[0] for late in after],
        "load": [load, os.getloadavg()[0]],
    }


def table(results: dict) -> str:
    """A row for each run."""
    lines = ["| cells | model | where | seconds | of the processor, each worker | peak memory, above the start |"]
    lines.append("|---" * 6 + "|")
    for row in results["rows"]:
        workers = row["workers"]
        grown = [late - early for early, late in zip(row["before_gb"], row["peak_gb"], strict=True)]
        where = f"{workers} worker{'s' * (workers > 1)}" if workers else "one process, no cluster"
        texts = [f"{row['cells']:,}", row["model"], where, f"{row['seconds']:.0f}"]
        texts += [span(row["cpu_seconds"][1:], ".0f") if workers else "", f"{span(grown, '.2f')} GB"]
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines)


def span(values: list[float], digits: str) -> str:
    """Least to most, or the one that both are when rounded."""
    return " to ".join(dict.fromkeys(f"{value:{digits}}" for value in (min(values), max(values))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, nargs="*", default=[50_000, 200_000])
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--narrow", action="store_true", help="a random model of width 8: reading and memory alone")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.workers[0], narrow=arguments.narrow)))
        return
    import zarr

    import cellfm as cf

    known = facts(cf.load_model("mini"))
    del known["model"]  # each row says it
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n_cells in arguments.cells:
            path = Path(folder, "cells.zarr")
            write_cells(zarr.open_group(path, mode="w"), n_cells)
            for n_workers in arguments.workers:
                command = [sys.executable, "-W", "ignore", "-m", "benchmarks.cluster"]
                command += ["--measure", str(path), "--workers", str(n_workers), *["--narrow"] * arguments.narrow]
                ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                model = "random, width 8" if arguments.narrow else "mini"
                found = json.loads(ran.stdout.splitlines()[-1])
                rows.append({"model": model, "cells": n_cells, "workers": n_workers} | found)
                print(json.dumps(rows[-1]), flush=True)
    save_results("cluster", known | {"rows": rows})


if __name__ == "__main__":
    main()
