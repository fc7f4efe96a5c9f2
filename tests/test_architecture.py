"""The house keeps its floors: imports, file sizes, signatures, docstrings and manners, read from the source."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest

import cellfm as cf

PACKAGE = Path(cf.__file__).parent
FLOORS = (
    ("errors", "keys", "io", "config", "settings"),
    ("genes", "cells", "corpus"),
    ("engines", "nn"),
    ("model",),
    ("train", "tasks"),
    ("pp", "tl", "pl", "get"),
    ("cli", "__main__"),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Of rooms on one floor each may use those before it.
ORDER = [room for rooms in FLOORS for room in rooms]
WITHOUT_MINDSPORE = ("errors", "keys", "config", "settings", "io", "genes", "cells", "pl")
ENGINES = {"jax", "jaxlib", "optax", "mindspore"}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "base"}
MAX_LINES = 400
MAX_BODY = 60
IMPORT_SECONDS = 1.0
HEAVY = ("mindspore", "jax", "scanpy", "matplotlib", "anndata", "pandas")
# What a tool takes without naming it: the data, then the model (or, for a tool that needs no data, the model alone).
DATA = ("data", "adata", "reference", "corpus", "features", "scores", "ranking", "predictor", "run")
MODEL = (
    "model",
    "annotator",
    "reference",
    "gene_sets",
    "genes",
    "labels",
    "perturbation",
    "perturbations",
    "target",
    "cells",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def statements(tree: ast.AST, *, inside_functions: bool) -> Iterator[ast.AST]:
    """Everything that is run, but for what stands under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not inside_functions:
            continue
        yield node
        yield from statements(node, inside_functions=inside_functions)


def imports(module: str, *, inside_functions: bool = True) -> set[str]:
    """Modules that a module imports; names taken from a package count as its modules where they are."""
    found = set()
    for node in statements(TREES[module], inside_functions=inside_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in TREES else str(node.module))
    return found


def reached(module: str, *, inside_functions: bool) -> set[str]:
    """Everything that is imported sooner or later with a module, the packages it lies in included."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name.startswith("cellfm."):
            waiting.append(name.rpartition(".")[0])
        if name in TREES:
            waiting += imports(name, inside_functions=inside_functions)
    return seen


def room(module: str) -> str:
    """``cellfm.nn._glu`` is in the room ``nn``; empty for the package as a whole and for other packages."""
    return module.split(".")[1] if module.startswith("cellfm.") else ""


INSIDE = sorted(name for name in TREES if room(name))


def test_every_file_has_a_floor():
    assert {room(name) for name in INSIDE} <= FLOOR_OF.keys()


def test_the_documented_floors_are_these():
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (\d) [^|]*\| ([^|]*) \|", text, re.MULTILINE)
    assert [(int(number), set(re.findall(r"`(\w+)`", rooms))) for number, rooms in rows] == [
        (number, set(rooms)) for number, rooms in enumerate(FLOORS)
    ]


def test_imports_go_down():
    """To a room before one's own, or inside of it; only the command line uses the package as a whole, as users do."""
    offenders = [
        f"{module} imports {other}"
        for module in INSIDE
        for other in imports(module)
        if room(other) != room(module)
        and (ORDER.index(room(other)) > ORDER.index(room(module)) if room(other) else other == "cellfm")
        and not (other == "cellfm" and FLOOR_OF[room(module)] == FLOOR_OF["cli"])
    ]
    assert not offenders


def test_tools_and_tasks_do_not_import_each_other():
    tool = re.compile(r"cellfm\.(pp|tl|pl|get)\._\w+")
    shared = {"cellfm.pl._figure"}
    assert not [
        (module, other)
        for module in INSIDE
        for other in imports(module)
        if tool.match(module) and tool.match(other) and other not in shared
    ]
    task = re.compile(r"cellfm\.tasks\.([a-z]+)\b")
    assert not [
        (module, other)
        for module in INSIDE
        for other in imports(module)
        if task.match(module) and task.match(other) and task.match(module)[1] != task.match(other)[1]
    ]


def test_only_the_model_side_knows_mindspore():
    reaching = [name for name in INSIDE if room(name) in WITHOUT_MINDSPORE]
    assert not [
        name
        for name in reaching
        if any(other.split(".")[0] == "mindspore" for other in reached(name, inside_functions=True))
    ]


def test_the_network_and_its_engines_see_no_data_and_no_files():
    foreign = {"anndata", "mudata", "pandas", "scanpy", "scipy", "pathlib", "h5py", "safetensors"}
    inner = [name for name in INSIDE if room(name) in ("nn", "engines")]
    assert not [name for name in inner if {other.split(".")[0] for other in imports(name)} & foreign]


def test_only_engines_know_an_engine():
    """And of `nn` no file knows more of them than the protocol."""
    found = {
        module: {name for name in imports(module) if name.split(".")[0] in ENGINES}
        for module in INSIDE
        if room(module) != "engines"
    }
    assert not {module: names for module, names in found.items() if names}
    protocol = {"cellfm.engines", "cellfm.engines.operations"}
    of_nn = {name for module in INSIDE if room(module) == "nn" for name in imports(module) if room(name) == "engines"}
    assert of_nn <= protocol
    between = {
        (module, name)
        for one, other in (("jax", "mindspore"), ("mindspore", "jax"))
        for module in INSIDE
        if module.startswith(f"cellfm.engines.{one}")
        for name in imports(module)
        if name.startswith(f"cellfm.engines.{other}") or name.split(".")[0] == other
    }
    assert not between


def test_engines_are_imported_when_something_is_computed():
    at_import = reached("cellfm.engines", inside_functions=False) | reached("cellfm.train", inside_functions=False)
    assert not {name.split(".")[0] for name in at_import} & ENGINES


def test_loading_models_needs_no_mindspore_until_they_run():
    at_import = reached("cellfm.model", inside_functions=False) | reached("cellfm.tl", inside_functions=False)
    assert not [name for name in at_import if name.split(".")[0] == "mindspore"]


def test_files_are_short_named_for_what_they_own_and_say_it():
    offenders = [
        module
        for module, path in FILES.items()
        if len(path.read_text().splitlines()) > MAX_LINES
        or FORBIDDEN_NAMES & set(path.relative_to(PACKAGE).with_suffix("").parts)
        or not (ast.get_docstring(TREES[module]) or "").splitlines()[:1]
    ]
    assert not offenders


def test_functions_are_short():
    """Their bodies, that is: signatures and docstrings do not count."""
    offenders = []
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[ast.get_docstring(node) is not None and len(node.body) > 1]
                n_lines = (node.end_lineno or 0) - first.lineno + 1
                if n_lines > MAX_BODY:
                    offenders.append(f"{module}.{node.name}: {n_lines} lines")
    assert not offenders


def test_nothing_unpickles_and_only_the_command_line_prints():
    unpicklers = {"pickle", "dill", "joblib", "cloudpickle", "torch"}
    offenders = [module for module in TREES if {name.split(".")[0] for name in imports(module)} & unpicklers]
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                offenders.append(f"{module} checks with assert, which python -O leaves out")
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            unpickles = any(key.arg == "allow_pickle" and ast.unparse(key.value) != "False" for key in node.keywords)
            if unpickles or re.search(r"\b(read_pickle|torch\.load|eval|exec)$", called):
                offenders.append(f"{module} calls {called}")
            if called == "print" and room(module) != "cli":
                offenders.append(f"{module} prints")
    assert not offenders


def tools() -> Iterator[tuple[str, Callable]]:
    for name in ("pp", "tl", "pl", "get"):
        if f"cellfm.{name}" in TREES:
            namespace = importlib.import_module(f"cellfm.{name}")
            for public in namespace.__all__:
                if inspect.isfunction(getattr(namespace, public)):
                    yield f"{name}.{public}", getattr(namespace, public)


TOOLS = dict(tools())


def test_signatures_are_sentences():
    """The data, perhaps the model, and every option by name; only plots pass on what they do not know, to scanpy."""
    offenders = []
    for name, tool in TOOLS.items():
        first, *others = inspect.signature(tool).parameters.values()
        by_place = [parameter.name for parameter in others if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
        if first.name not in (*DATA, *MODEL) or len(by_place) > 1 or not set(by_place) <= set(MODEL):
            offenders.append(f"{name}: {first.name}, {by_place}")
        for parameter in others:
            passed_on = parameter.kind is parameter.VAR_KEYWORD and not name.startswith("pl.")
            if passed_on or parameter.kind is parameter.VAR_POSITIONAL or parameter.annotation is parameter.empty:
                offenders.append(f"{name}: {parameter}")
    assert not offenders


def test_what_takes_cells_takes_one_table_of_a_mudata():
    offenders = []
    for name, tool in TOOLS.items():
        first, *others = inspect.signature(tool).parameters.values()
        taken = {parameter.name: parameter.default for parameter in others}
        types = {kind.__name__ for kind in (get_args(first.annotation) or (first.annotation,))}
        if "AnnData" in types and ("MuData" not in types or taken.get("modality") != "rna"):
            offenders.append(name)
    assert not offenders


def test_docstrings_explain_every_parameter():
    """In numpydoc's form: the sections Parameters and Returns first, and the parameters in their order."""
    offenders = []
    for name, tool in TOOLS.items():
        docstring = inspect.getdoc(tool) or ""
        sections = re.findall(r"^(\w+)\n-+$", docstring, re.MULTILINE)
        explained = docstring.partition("Parameters\n----------\n")[2].partition("\n\nReturns\n")[0]
        entries = [entry for line in re.findall(r"^(\w[^\n]*)$", explained, re.MULTILINE) for entry in line.split(", ")]
        parameters = list(inspect.signature(tool).parameters)
        if sections[:2] != ["Parameters", "Returns"] or [entry.split(" :")[0] for entry in entries] != parameters:
            offenders.append(name)
    assert not offenders


def test_docstrings_name_the_keys_that_the_source_uses():
    keys = importlib.import_module("cellfm.keys")
    offenders = []
    for name, tool in TOOLS.items():
        if name.startswith("get."):  # reads what others have written
            continue
        for node in ast.walk(TREES[tool.__module__]):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id.isupper():
                key = getattr(getattr(keys, node.value.id, None), node.attr, None)
                if isinstance(key, str) and key not in (inspect.getdoc(tool) or ""):
                    offenders.append(f"{name}: {key!r}")
    assert not offenders


def test_importing_cellfm_is_quick_and_brings_nothing_heavy(tmp_path: Path):
    code = (
        "import sys, time, json; start = time.perf_counter(); import cellfm; seconds = time.perf_counter() - start;"
        f"json.dump([seconds, [name for name in {HEAVY!r} if name in sys.modules]], sys.stdout)"
    )
    seconds = []
    for _ in range(3):
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
        assert not ran.stderr
        took, heavy = json.loads(ran.stdout)
        assert not heavy
        seconds.append(took)
    assert min(seconds) < IMPORT_SECONDS


@pytest.mark.mindspore
def test_mindspore_says_nothing_of_its_own_whoever_imports_it(tmp_path: Path):
    outside = [name for name in INSIDE if "mindspore" in imports(name) and not name.startswith("cellfm.nn")]
    assert outside
    code = """
import sys
from importlib import import_module
import_module(sys.argv[1])
import mindspore
mindspore.log.warning("a warning of MindSpore")
mindspore.log.error("an error of MindSpore")
"""
    ran = subprocess.run([sys.executable, "-c", code, outside[-1]], capture_output=True, text=True, cwd=tmp_path)
    assert "an error of MindSpore" in ran.stderr
    assert "a warning of MindSpore" not in ran.stderr
