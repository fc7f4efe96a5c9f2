"""Time and peak memory of loading an 80M-size checkpoint with both Adam moments (1.03 GB), and its converted folder.

python -m benchmarks.loading
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.record import record
from cellfm.config import PUBLISHED
from cellfm.genes.vocabulary import Vocabulary
from cellfm.model._published import published_name
from cellfm.nn.parameters import parameter_shapes

LOAD = """
import json, re, sys, time
import cellfm as cf
import cellfm.model
start = time.perf_counter()
model = cf.load_model(sys.argv[1], sys.argv[2] or None)
seconds = time.perf_counter() - start
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])  # kB, of this program alone
print(json.dumps({"seconds": seconds, "peak_gb": peak / 1e6, "n": model.n_parameters}))
"""


def write_checkpoint(path: Path) -> None:
    """Random numbers in the names and shapes of the published 80M file, optimizer state included."""
    import mindspore as ms

    generator = np.random.default_rng(0)
    entries = []
    for name, shape in parameter_shapes(PUBLISHED["80M"]).items():
        for prefix in ("", "moment1.", "moment2."):
            array = generator.standard_normal(shape, np.float32)
            entries.append({"name": prefix + published_name(name), "data": ms.Tensor(array)})
    entries.append({"name": "global_step", "data": ms.Tensor(np.zeros(1, np.int32))})
    ms.save_checkpoint(entries, str(path))


def measure(path: Path, vocabulary: str) -> dict[str, float]:
    command = [sys.executable, "-c", LOAD, str(path), vocabulary]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, table, converted = Path(folder, "80M.ckpt"), Path(folder, "genes.csv"), Path(folder, "converted")
        n_genes = PUBLISHED["80M"].n_genes
        pd.DataFrame({"HGNC_gene": [f"GENE{i}" for i in range(n_genes)]}).to_csv(table, index=False)
        write_checkpoint(path)
        print(f".ckpt of {path.stat().st_size / 1e9:.2f} GB: ", end="")
        facts = measure(path, str(table))
        record("loading, .ckpt", **facts)
        print(f"{facts['seconds']:.2f} s, peak {facts['peak_gb']:.2f} GB ({facts['n'] / 1e6:.0f} M parameters)")
        from cellfm.model import load_model

        load_model(path, Vocabulary.load(table)).save(converted)
        facts = measure(converted, "")
        record("loading, folder", **facts)
        print(f"converted folder: {facts['seconds']:.2f} s, peak {facts['peak_gb']:.2f} GB")


if __name__ == "__main__":
    main()
