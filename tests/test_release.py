"""What is said of a release stands in several files, and they agree; what it weighs stays small."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from cellfm.io.installed import NEWEST_PYTHON

ROOT = Path(__file__).resolve().parent.parent
PATHS = re.compile(r"\btests/[\w/]+(?:\.py)?")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LISTING = ROOT / ".github" / "scverse" / "meta.yaml"  # not in the sdist
needs_checkout = pytest.mark.skipif(not LISTING.exists(), reason="needs a checkout: the files are not in the sdist")


def line(path: Path, pattern: str) -> str:
    found = re.search(pattern, path.read_text(), re.MULTILINE)
    assert found, f"{path.name} has no line like {pattern}"
    return found.group(1)


def test_the_version_is_the_same_everywhere():
    assert line(ROOT / "CITATION.cff", r"^version: (.+)$") == PROJECT["version"]
    assert line(ROOT / "CHANGELOG.md", r"^## (\d\S+)") == PROJECT["version"]  # the newest entry


@needs_checkout
def test_the_listing_of_scverse_says_what_the_project_says():
    assert line(LISTING, r"^version: (.+)$") == PROJECT["version"]
    assert line(LISTING, r"^name: (.+)$") == PROJECT["name"]
    assert line(LISTING, r"^license: (.+)$") == PROJECT["license"]
    assert line(LISTING, r"^  - (10\..+)$") == line(ROOT / "CITATION.cff", r"doi: (.+)$")
    install, tests = line(LISTING, r"^test_command: (.+)$").split(" && ")
    readme = (ROOT / "README.md").read_text()
    assert install in readme
    assert tests in readme


@needs_checkout
def test_the_lowest_versions_are_those_that_are_tested():
    lowest = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / ".ci" / "lowest.txt").read_text(), re.MULTILINE))
    extra = [Requirement(line) for line in PROJECT["optional-dependencies"]["mindspore"]]
    named = [*map(Requirement, PROJECT["dependencies"]), *(one for one in extra if one.name == "mindspore")]
    for requirement in named:
        bounds = [bound.version for bound in requirement.specifier if bound.operator == ">="]
        assert bounds == [lowest[requirement.name]], requirement
    for requirement in extra:
        assert requirement.specifier.contains(lowest[requirement.name])
        assert requirement.marker.evaluate({"python_version": "3.12"})
        assert not requirement.marker.evaluate({"python_version": "3.13"})


def test_the_extra_ends_with_the_python_that_mindspore_has_wheels_for():
    pythons = [line for line in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", line)]
    assert {f"Programming Language :: Python :: {'.'.join(map(str, NEWEST_PYTHON))}", pythons[0]} <= set(pythons)
    assert SpecifierSet(PROJECT["requires-python"]).contains(pythons[0].split(" :: ")[-1])
    after = f"python_version < '{NEWEST_PYTHON[0]}.{NEWEST_PYTHON[1] + 1}'"
    assert all(line.endswith(after) for line in PROJECT["optional-dependencies"]["mindspore"])


def test_every_licence_is_there():
    assert PROJECT["license-files"] == ["LICENSE"]
    assert "BSD 3-Clause" in (ROOT / "LICENSE").read_text()


def test_what_is_published_fits():
    shipped = [path for path in (ROOT / "cellfm").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in shipped) < 25e6  # unpacked, so the wheel is smaller


@needs_checkout
def test_the_workflows_do_what_is_done_by_hand():
    for name in ("ci.yaml", "release.yaml"):
        assert "run: .ci/run" in (ROOT / ".github" / "workflows" / name).read_text()
    assert ".ci/release" in (ROOT / ".ci" / "run").read_text()


def test_the_scripts_of_continuous_integration_name_tests_that_exist():
    named = {path for script in ("run", "release") for path in PATHS.findall((ROOT / ".ci" / script).read_text())}
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]
