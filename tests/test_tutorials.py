"""Every notebook runs from its first cell to its last on data that come with scanpy, and is kept with light outputs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parent.parent / "docs"
NOTEBOOKS = [DOCS / "tour.ipynb", *sorted((DOCS / "tutorials").glob("*.ipynb"))]
MAX_BYTES = 250_000
MAX_BYTES_OF_ALL = 2_000_000
MACHINE_PATHS = re.compile(r"/(?:work|tmp|home|root|Users|opt)/|[A-Z]:\\\\Users")
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
SLOW = {"annotate", "dosage", "integrate", "interferon"}  # run once a week
run_notebooks = pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] if path.stem in SLOW else []) for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 9


@run_notebooks
def test_runs_on_the_bundled_data(path: Path, tmp_path: Path):
    script = tmp_path / "notebook.py"
    script.write_text("\n".join("".join(cell["source"]) for cell in code_cells(path)))
    environment = {name: value for name, value in os.environ.items() if name != "CELLFM_DATA"}
    ran = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment | {"MPLBACKEND": "agg"}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-3000:]


@every_notebook
def test_was_run_from_the_first_cell_to_the_last(path: Path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    for cell in cells:
        source = "".join(cell["source"])
        if not cell["outputs"]:  # what only imports, fits or writes has nothing to show
            last = source.strip().splitlines()[-1]
            assert not last.startswith(("cf.pl.", "plt.show")), f"this cell draws and shows nothing:\n{source}"
    assert len(outputs) >= len(cells) / 2


@every_notebook
def test_outputs_are_light_and_name_no_machine(path: Path):
    assert path.stat().st_size < MAX_BYTES, f"run it again with python docs/execute.py {path.stem}"
    assert not MACHINE_PATHS.findall(path.read_text())


def test_all_outputs_together_are_light():
    assert sum(path.stat().st_size for path in NOTEBOOKS) < MAX_BYTES_OF_ALL
