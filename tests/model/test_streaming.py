"""Data larger than memory: what embedding takes does not grow with the cells, but for the result itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALLOWED_GB = 1.0


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="needs a checkout: it runs a benchmark")
def test_memory_stays_flat_from_10_000_to_200_000_cells(tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "benchmarks.streaming", "--embed", "10000", "200000", "--read"]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"CELLFM_BENCHMARKS": str(rows)})
    few, many = json.loads(rows.read_text())["embed"]
    assert (few["cells"], many["cells"]) == (10_000, 200_000)
    assert many["above_gb"] < ALLOWED_GB
    grown = (many["above_gb"] - many["output_gb"]) - (few["above_gb"] - few["output_gb"])
    assert grown < 0.1
