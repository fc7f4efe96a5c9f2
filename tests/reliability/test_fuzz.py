"""Some damaged files of every kind, in a process with limited memory; `fuzz.py` makes as many as asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).parent / "fuzz.py"


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by its share of the address space")
def test_damaged_files_are_refused_or_read(tmp_path: Path):
    # By default some seconds; CELLFM_FUZZ_CASES=20000 takes an hour.
    command = [sys.executable, FUZZER, "--cases", os.environ.get("CELLFM_FUZZ_CASES", "40"), "--seed", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, f"{ran.stdout[-5000:]}\n{ran.stderr.split(chr(13))[-1][-2000:]}"
    assert ran.stdout.count("'refused'") == 12, "every kind of file is there, and damage is seen"
