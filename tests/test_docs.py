"""The documentation builds without a warning, forgets no public name and promises nothing that is not there."""

import ast
import dataclasses
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import cellfm as cf
from cellfm import keys
from cellfm.cli import _parser

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ("README.md", "CHANGELOG.md", *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/**/*.md"))))
NAMESPACES = ("cellfm", "cellfm.pp", "cellfm.tl", "cellfm.pl")


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(name, reason="needs the documentation tools: pip install -e '.[docs]'")
    out = tmp_path_factory.mktemp("docs")
    sphinx = (sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html")
    ran = subprocess.run(
        [*sphinx, "-d", str(out / "doctrees"), str(ROOT / "docs"), str(out / "html")],
        env=os.environ | {"CELLFM_DOCS_EXECUTION": "off"},  # tests/test_tutorials.py runs them
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return out / "html"


def public_names() -> list[str]:
    return [f"{space}.{name}" for space in NAMESPACES for name in importlib.import_module(space).__all__]


def test_every_public_name_is_in_the_api_once(html: Path):
    api = "".join(path.read_text() for path in sorted((html / "api").glob("*.html")))
    for whole in public_names():
        value = cf
        for part in whole.split(".")[1:]:
            value = getattr(value, part)
        if not whole.endswith("__"):
            anchor = f'id="module-{whole}"' if isinstance(value, ModuleType) else f'id="{whole}"'
            assert api.count(anchor) == 1, f"{whole} is explained {api.count(anchor)} times"


def test_every_key_is_in_the_conventions(html: Path):
    page = (html / "conventions.html").read_text()
    results = [value for name, value in vars(keys).items() if name.isupper() and dataclasses.is_dataclass(value)]
    assert results
    for result in results:
        for key in dataclasses.astuple(result):
            assert f">{key}<" in page


@pytest.mark.parametrize("text", TEXTS)
def test_texts_name_only_what_is_there(text: str):
    for whole in re.findall(r"\bcf((?:\.[a-z_]+)+)", (ROOT / text).read_text()):
        value = cf
        for part in whole.split(".")[1:]:
            assert hasattr(value, part), f"cf{whole} is not there"
            value = getattr(value, part)


@pytest.mark.parametrize("text", TEXTS)
def test_commands_in_texts_are_understood(text: str, capsys: pytest.CaptureFixture):
    content = (ROOT / text).read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", content, re.MULTILINE | re.DOTALL)
    for line in re.findall(r"\bcellfm (.+)", "\n".join(blocks)):
        _parser().parse_args(shlex.split(line, comments=True))
    for command in re.findall(r"`cellfm ([a-z]+)", content):
        with pytest.raises(SystemExit, match="^0$"):
            _parser().parse_args([command, "--help"])


@pytest.mark.parametrize("text", TEXTS)
def test_python_in_texts_is_python(text: str):
    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / text).read_text(), re.MULTILINE | re.DOTALL):
        ast.parse(block)


@pytest.mark.parametrize("text", TEXTS)
def test_links_between_texts_lead_somewhere(text: str):
    path = ROOT / text
    for target in re.findall(r"\]\(([^)#:\s]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target
