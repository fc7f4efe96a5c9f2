"""One benchmark, or all measures of speed and memory in one run: the rows, ``results.json`` and two figures.

python -m benchmarks NAME [its options]               benchmarks of tasks write benchmarks/results/NAME.json
python -m benchmarks -o FOLDER [--only NAME ...]      about 40 minutes on two cores
"""

import argparse
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

from benchmarks.record import TARGET, machine

SUITE: dict[str, list[str]] = {
    "gemm": ["benchmarks.gemm"],
    "tokens": ["benchmarks.tokens"],
    "embedding, mini": ["benchmarks.embedding", "--size", "mini"],
    "embedding, mini-open": ["benchmarks.embedding", "--size", "mini-open"],
    "embedding, 80M": ["benchmarks.embedding", "--size", "80M"],
    "embedding, 800M": ["benchmarks.embedding", "--size", "800M"],
    "memory": ["benchmarks.memory"],
    "scaling": ["benchmarks.scaling"],
    "attention": ["benchmarks.attention"],
    "training": ["benchmarks.training"],
    "loading": ["benchmarks.loading"],
    "shards": ["benchmarks.shards"],
    "streaming": ["benchmarks.streaming"],
    "gene tools": ["benchmarks.gene_tools"],
    "plan": ["benchmarks.plan"],
}


def main() -> int:
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        name = sys.argv.pop(1)
        if not Path(__file__).with_name(f"{name.replace('.', '/')}.py").exists():
            raise SystemExit(f"There is no benchmarks/{name}.py.")
        runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", choices=SUITE, default=list(SUITE), metavar="NAME", help=", ".join(SUITE))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    rows = args.output / "rows.jsonl"
    print(json.dumps(machine()))
    failed = []
    for name in args.only:
        print(f"\n== {name}", flush=True)
        command = [sys.executable, "-m", *SUITE[name]]
        # What they say of themselves on stderr is progress and the compiler's.
        ran = subprocess.run(command, env=os.environ | {TARGET: str(rows.resolve())}, stderr=subprocess.PIPE, text=True)
        if ran.returncode:
            failed.append(name)
            print(ran.stderr[-2000:])
    found: dict[str, dict] = {}
    for line in rows.read_text().splitlines() if rows.exists() else []:
        row = json.loads(line)
        found[row.pop("name")] = row  # the last run of each
    results = {"machine": machine(), "rows": found}
    (args.output / "results.json").write_text(json.dumps(results, indent=1))
    draw(found, args.output)
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return len(failed)


def draw(rows: dict[str, dict], folder: Path) -> None:
    """Figures of the rows that there are."""
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    def label(ax: Axes, x: list[int], xlabel: str, ylabel: str) -> None:
        ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
        ax.set_xticks(x, [f"{value:,}" for value in x], rotation=45)
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())

    if "scaling" in rows:
        parts = {name: list(zip(*points, strict=True)) for name, points in rows["scaling"]["parts"].items()}
        fig, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
        labels = {
            "genes a cell": ("genes per cell", "cells/s"),
            "cells at once": ("batch_size", "cells/s"),
            "cells": ("cells", "seconds"),
        }
        for ax, (name, texts) in zip(axes, labels.items(), strict=True):
            ax.plot(*parts[name], "o-")
            label(ax, parts[name][0], *texts)
        fig.savefig(folder / "embedding.svg")
        plt.close(fig)
    if "attention" in rows:
        fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
        lengths = sorted({point[0] for points in rows["attention"]["ways"].values() for point in points})
        for name, points in rows["attention"]["ways"].items():
            length, seconds, gigabytes = zip(*points, strict=True)
            axes[0].plot(length, seconds, "o-", label=name)
            axes[1].plot(length, gigabytes, "o-", label=name)
        label(axes[0], lengths, "tokens", "seconds")
        label(axes[1], lengths, "tokens", "peak memory, GB")
        axes[0].legend()
        fig.savefig(folder / "attention.svg")
        plt.close(fig)


if __name__ == "__main__":
    raise SystemExit(main())
