"""All measures of speed and memory in one run: the rows, ``results.json`` and two figures.

python -m benchmarks -o FOLDER [--only NAME ...]      about 40 minutes on two cores
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.record import TARGET, machine

SUITE: dict[str, list[str]] = {
    "gemm": ["benchmarks.gemm"],
    "tokens": ["benchmarks.tokens"],
    "embedding, mini": ["benchmarks.embedding", "--size", "mini"],
    "embedding, 80M": ["benchmarks.embedding", "--size", "80M"],
    "embedding, 800M": ["benchmarks.embedding", "--size", "800M"],
    "scaling": ["benchmarks.scaling"],
    "attention": ["benchmarks.attention"],
    "training": ["benchmarks.training"],
    "loading": ["benchmarks.loading"],
    "shards": ["benchmarks.shards"],
    "streaming": ["benchmarks.streaming"],
    "plan": ["benchmarks.plan"],
}


def main() -> int:
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
    import matplotlib.pyplot as plt

    if "scaling" in rows:
        parts = rows["scaling"]["parts"]
        fig, axes = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
        labels = (
            ("genes a cell", "genes per cell", "cells/s"),
            ("cells at once", "batch_size", "cells/s"),
            ("cells", "cells", "seconds"),
        )
        for ax, (part, x, y) in zip(axes, labels, strict=True):
            ax.plot(*zip(*parts[part], strict=True), "o-")
            ax.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
        fig.savefig(folder / "embedding.svg")
        plt.close(fig)
    if "attention" in rows:
        fig, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
        for name, points in rows["attention"]["ways"].items():
            length, seconds, gigabytes = zip(*points, strict=True)
            axes[0].plot(length, seconds, "o-", label=name)
            axes[1].plot(length, gigabytes, "o-", label=name)
        axes[0].set(xscale="log", yscale="log", xlabel="tokens", ylabel="seconds")
        axes[1].set(xscale="log", yscale="log", xlabel="tokens", ylabel="peak memory, GB")
        axes[0].legend()
        fig.savefig(folder / "attention.svg")
        plt.close(fig)


if __name__ == "__main__":
    raise SystemExit(main())
