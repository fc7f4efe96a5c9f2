"""The documentation builds without a warning, forgets no public name and promises nothing that is not there."""

import ast
import dataclasses
import importlib
import inspect
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

import cellfm as cf
from cellfm import keys
from cellfm.cli._main import _parser

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(path for path in ROOT.glob("docs/**/*.ipynb") if ".ipynb_checkpoints" not in path.parts)
PAGES = [path for path in sorted(ROOT.glob("docs/**/*.md")) if "_build" not in path.parts]
TEXTS = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    *(str(path.relative_to(ROOT)) for path in (*PAGES, *NOTEBOOKS)),
)
NAMESPACES = ("cellfm", "cellfm.pp", "cellfm.tl", "cellfm.pl", "cellfm.get")


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("sphinx", "myst_nb", "sphinx_design", "furo"):
        pytest.importorskip(name, reason="needs the documentation tools: pip install -e '.[docs]'")
    out = tmp_path_factory.mktemp("docs")
    sphinx = (sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html")
    ran = subprocess.run(
        [*sphinx, "-d", str(out / "doctrees"), str(ROOT / "docs"), str(out / "html")], capture_output=True, text=True
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


def content(text: str) -> str:
    """A page as Markdown; the code of notebooks as blocks of Python."""
    path = ROOT / text
    if path.suffix != ".ipynb":
        return path.read_text()
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(path.read_text())["cells"]]
    return "\n\n".join(f"```python\n{source}\n```" if kind == "code" else source for kind, source in cells)


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", content(text), re.MULTILINE | re.DOTALL)


def named(whole: str) -> object:
    """What ``cf.tl.embed`` stands for."""
    value = cf
    for part in whole.split(".")[1:]:
        assert hasattr(value, part), f"{whole} is not there"
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("text", TEXTS)
def test_texts_name_only_what_is_there(text: str):
    for whole in re.findall(r"\bcf(?:\.[a-z_]+)+", content(text)):
        named(whole)


@pytest.mark.parametrize("text", TEXTS)
def test_commands_in_texts_are_understood(text: str, capsys: pytest.CaptureFixture):
    blocks = re.findall(r"^```bash\n(.*?)^```", content(text), re.MULTILINE | re.DOTALL)
    for line in re.findall(r"\bcellfm (.+)", "\n".join(blocks)):
        _parser().parse_args(shlex.split(line, comments=True))
    for command in re.findall(r"`cellfm ([a-z]+)", content(text)):
        with pytest.raises(SystemExit, match="^0$"):
            _parser().parse_args([command, "--help"])


@pytest.mark.parametrize("text", TEXTS)
def test_calls_in_texts_have_the_parameters_they_name(text: str):
    for block in python_blocks(text):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call) and re.fullmatch(r"cf(\.[a-z_]+)+", whole := ast.unparse(node.func)):
                parameters = inspect.signature(named(whole)).parameters
                if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
                    assert {keyword.arg for keyword in node.keywords} <= parameters.keys(), f"{whole} in {block}"


@pytest.mark.parametrize("text", TEXTS)
def test_links_between_texts_lead_somewhere(text: str):
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)", content(text)):
        assert (ROOT / text).parent.joinpath(target).exists(), target


@pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="needs a checkout: it imports the benchmarks")
def test_tables_of_results_are_those_of_their_files(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT)
    outdated = importlib.import_module("benchmarks.render").outdated()
    assert not outdated, "run python -m benchmarks.render"


class Links(HTMLParser):
    """What a page of HTML points to, and the places in it that others can point to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.places: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (tag == "a" and name == "name"):
                self.places.add(value or "")
            elif name in ("href", "src") and value:
                self.targets.append(value)


@pytest.fixture(scope="module")
def links(html: Path) -> dict[Path, Links]:
    return {page: Links(page) for page in sorted(html.rglob("*.html")) if "_static" not in page.parts}


def targets(links: dict[Path, Links]) -> Iterator[tuple[Path, str]]:
    for page, found in links.items():
        for target in found.targets:
            yield page, target


def test_links_within_the_pages_lead_somewhere(links: dict[Path, Links]):
    broken = []
    for page, target in targets(links):
        parts = urlsplit(target)
        if not (parts.scheme or parts.netloc):
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            known = links[file].places if file in links else {unquote(parts.fragment)}
            if not file.exists() or (parts.fragment and unquote(parts.fragment) not in known):
                broken.append((page.name, target))
    assert sum(len(found.targets) for found in links.values()) > 1000
    assert not broken


def test_links_out_of_the_pages_are_addresses(links: dict[Path, Links]):
    """Whether anybody answers there is asked by ``sphinx-build -b linkcheck``, which needs a network."""
    outside = {target for _, target in targets(links) if urlsplit(target).scheme or urlsplit(target).netloc}
    assert outside
    for target in outside:
        parts = urlsplit(target)
        if parts.scheme == "data":  # a picture in the page itself
            continue
        assert parts.scheme == "https", target
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc.lower()), target
        assert not re.search(r"\s", target), target


def test_pages_name_no_folder_of_the_machine_that_built_them(html: Path):
    for page in html.rglob("*.html"):
        assert not re.search(r"/(?:work|tmp|home|root)/", page.read_text()), page.name
