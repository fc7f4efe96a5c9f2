"""Every tutorial runs from its first cell to its last, with the data that come with scanpy."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parent.parent / "docs" / "tutorials").glob("*.md"))
CELL = re.compile(r"^```\{code-cell\}.*?\n(?::tags:[^\n]*\n)?(.*?)^```$", re.DOTALL | re.MULTILINE)


def cells_of(page: Path) -> list[str]:
    return CELL.findall(page.read_text())


def test_there_are_tutorials():
    assert sum(map(bool, map(cells_of, TUTORIALS))) >= 5


@pytest.mark.parametrize("page", [page for page in TUTORIALS if cells_of(page)], ids=lambda page: page.stem)
def test_runs_on_the_bundled_data(page: Path, tmp_path: Path):
    script = tmp_path / "tutorial.py"
    script.write_text("\n".join(cells_of(page)))
    ran = subprocess.run(  # away from the checkout, where no other data lie beside it
        [sys.executable, script], cwd=tmp_path, env=os.environ | {"MPLBACKEND": "agg"}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
