"""The house keeps its floors: imports, file sizes, signatures, docstrings and manners, read from the source."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import cellfm as cf
from cellfm.errors import DataWarning
from cellfm.model import CellFM
from cellfm.tasks.perturbation._predictor import PerturbationPredictor
from cellfm.tasks.transport._model import TransportModel

PACKAGE = Path(cf.__file__).parent
FLOORS = (
    (
        "errors",
        "keys",
        "config",
        "settings",
        "_logging",
        "_progress",
        "_ahead",
        "_atomic",
        "_extras",
        "_fork",
        "_network",
        "_outside",
        "_undisturbed",
        "_wording",
    ),
    (
        "vocab",
        "_adata",
        "_counts",
        "_figure",
        "_fingerprint",
        "_genes",
        "_harmonize",
        "_hgnc",
        "_inspect",
        "_outputs",
        "_report",
        "data",
        "genes",
    ),
    ("nn", "engines"),
    ("model", "_encode", "_pieces"),
    ("train",),
    ("tasks",),
    ("pp", "tl", "pl"),
    (
        "cli",
        "__main__",
        "_cli_embed",
        "_cli_genes",
        "_cli_integrate",
        "_cli_messages",
        "_cli_tasks",
        "_cli_train",
        "_demo",
        "_doctor",
    ),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
WITHOUT_MINDSPORE = (*FLOORS[0], *FLOORS[1], "pp", "pl")
ENGINES = {"jax", "jaxlib", "optax", "mindspore"}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "base"}
MAX_LINES = 400
IMPORT_SECONDS = 1.0
HEAVY = ("mindspore", "jax", "scanpy", "matplotlib", "anndata", "pandas")
# What a tool takes without naming it: the data, then the model (or, for a tool that needs no data, the model alone).
DATA = ("data", "adata", "reference", "corpus", "features", "scores", "ranking", "predictor")
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
# Tools that hand back what they found and write nothing.
READ_ONLY = {
    "pp.check",
    "tl.benchmark",
    "tl.compare_transport",
    "tl.evaluate_annotation",
    "tl.evaluate_reverse",
    "tl.evaluate_unknowns",
    "tl.fit_annotator",
    "tl.fit_perturbation",
    "tl.fit_transport",
    "tl.gene_embeddings",
    "tl.gene_function",
    "tl.perturb",
    "tl.predict_gene_function",
    "tl.rank_perturbations",
    "tl.screen_perturbations",
    "tl.transport",
}


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


@pytest.mark.parametrize("module", INSIDE)
def test_imports_go_down(module: str):
    floor = FLOOR_OF[room(module)]
    for other in imports(module):
        if room(other):
            allowed = FLOOR_OF[room(other)] < floor or room(other) == room(module)
            neighbours = FLOOR_OF[room(other)] == floor and floor != FLOOR_OF["tl"]
            assert allowed or neighbours, f"{module} imports {other}"
        else:  # only the command line uses the package as a whole, as its users do
            assert other != "cellfm" or floor == FLOOR_OF["cli"], f"{module} imports what stands above it"


@pytest.mark.parametrize("module", [name for name in INSIDE if re.match(r"cellfm\.(pp|tl|pl)\.", name)])
def test_tools_do_not_import_each_other(module: str):
    assert not [other for other in imports(module) if re.match(r"cellfm\.(pp|tl|pl)\b", other)]


@pytest.mark.parametrize("module", [name for name in INSIDE if room(name) in WITHOUT_MINDSPORE])
def test_only_the_model_side_knows_mindspore(module: str):
    assert not [name for name in reached(module, inside_functions=True) if name.split(".")[0] == "mindspore"]


def test_the_lower_floors_are_type_checked():
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    checked = {Path(file).stem for file in settings["tool"]["mypy"]["files"]}
    assert checked == {*WITHOUT_MINDSPORE, "nn", "engines"}


@pytest.mark.parametrize("module", [name for name in INSIDE if room(name) in ("nn", "engines")])
def test_the_network_and_its_engines_see_no_data_and_no_files(module: str):
    foreign = {"anndata", "mudata", "pandas", "scanpy", "scipy", "pathlib", "h5py", "safetensors"}
    assert not {name.split(".")[0] for name in imports(module)} & foreign


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


@pytest.mark.parametrize("module", TREES)
def test_files_are_short_named_for_what_they_own_and_say_it(module: str):
    path, tree = FILES[module], TREES[module]
    assert len(path.read_text().splitlines()) <= MAX_LINES
    assert not FORBIDDEN_NAMES & set(path.relative_to(PACKAGE).with_suffix("").parts)
    docstring = ast.get_docstring(tree)
    assert docstring
    assert docstring.splitlines()[0].strip()


@pytest.mark.parametrize("module", TREES)
def test_nothing_unpickles_and_only_the_command_line_prints(module: str):
    assert not {name.split(".")[0] for name in imports(module)} & {"pickle", "dill", "joblib", "cloudpickle", "torch"}
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            allowed_pickle = [key for key in node.keywords if key.arg == "allow_pickle"]
            assert not [key for key in allowed_pickle if ast.unparse(key.value) != "False"], called
            assert not re.search(r"\b(read_pickle|torch\.load|eval|exec)$", called), called
            assert called != "print" or module == "cellfm.cli", f"{module} prints"
        assert not isinstance(node, ast.Assert), f"{module} checks with assert, which python -O leaves out"


def tools() -> Iterator[tuple[str, Callable]]:
    for name in ("pp", "tl", "pl"):
        if f"cellfm.{name}" in TREES:
            namespace = importlib.import_module(f"cellfm.{name}")
            for public in namespace.__all__:
                if inspect.isfunction(getattr(namespace, public)):
                    yield f"{name}.{public}", getattr(namespace, public)


TOOLS = dict(tools())


@pytest.mark.parametrize("name", TOOLS)
def test_signatures_are_sentences(name: str):
    first, *others = inspect.signature(TOOLS[name]).parameters.values()
    assert first.name in (*DATA, *MODEL)
    by_place = [parameter.name for parameter in others if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    assert not by_place or (len(by_place) == 1 and by_place[0] in MODEL), f"{by_place} must be given by name"
    for parameter in others:
        assert parameter.kind is not parameter.VAR_POSITIONAL
        # Only plots pass on what they do not know, to scanpy.
        assert parameter.kind is not parameter.VAR_KEYWORD or name.startswith("pl.")
        assert parameter.annotation is not parameter.empty


@pytest.mark.parametrize("name", TOOLS)
def test_docstrings_explain_every_parameter(name: str):
    docstring = inspect.getdoc(TOOLS[name]) or ""
    sections = re.findall(r"^(\w+)\n-+$", docstring, re.MULTILINE)
    assert sections[:2] == ["Parameters", "Returns"], "needs the sections Parameters and Returns, in numpydoc's form"
    explained = docstring.split("Parameters\n----------\n")[1].split("\n\nReturns\n")[0]
    entries = [entry for line in re.findall(r"^(\w[^\n]*)$", explained, re.MULTILINE) for entry in line.split(", ")]
    assert [entry.split(" :")[0] for entry in entries] == list(inspect.signature(TOOLS[name]).parameters)


@pytest.mark.parametrize("name", TOOLS)
def test_docstrings_name_the_keys_that_the_source_uses(name: str):
    docstring = inspect.getdoc(TOOLS[name]) or ""
    keys = importlib.import_module("cellfm.keys")
    for node in ast.walk(TREES[TOOLS[name].__module__]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id.isupper():
            key = getattr(getattr(keys, node.value.id, None), node.attr, None)
            assert not isinstance(key, str) or key in docstring, f"{key!r} is not in the docstring"


def stored(adata: AnnData) -> set[str]:
    slots = ("obs", "var", "obsm", "varm", "obsp", "varp", "layers", "uns")
    return {f'{slot}["{key}"]' for slot in slots for key in getattr(adata, slot)}


def with_gene_embeddings(adata: AnnData, model: CellFM) -> None:
    cf.tl.embed_genes(adata, model)


def with_modules(adata: AnnData, model: CellFM) -> None:
    cf.tl.embed_genes(adata, model)
    cf.tl.gene_modules(adata, resolution=1.0)


def log_normalised(adata: AnnData, model: CellFM) -> None:
    adata.X = sp.csr_matrix(adata.X.multiply(1e4 / np.asarray(adata.X.sum(1)))).log1p()


def with_third_label(adata: AnnData, model: CellFM) -> None:
    adata.obs["label"] = adata.obs["label"].cat.add_categories("C")
    adata.obs.loc[adata.obs_names[-8:], "label"] = "C"


def with_conditions(adata: AnnData, model: CellFM) -> None:
    labels = ["ctrl", *(f"GENE{i}+ctrl" for i in range(8))]
    adata.obs["condition"] = [labels[i % len(labels)] for i in range(adata.n_obs)]


def fitted_predictor(adata: AnnData, model: CellFM) -> PerturbationPredictor:
    with pytest.warns(DataWarning, match="fewer than 10 cells"):
        return cf.tl.fit_perturbation(adata, model, condition_key="condition", n_epochs=1, width=4)


def many_cells(adata: AnnData, model: CellFM) -> AnnData:
    many = anndata.concat([adata] * 5, index_unique="-")
    many.obs["condition"] = np.where(np.arange(many.n_obs) % 2, "ctrl", "stim")
    return many


def fitted_transport(adata: AnnData, model: CellFM) -> TransportModel:
    return cf.tl.fit_transport(many_cells(adata, model), **OPTIONS["tl.fit_transport"])


GENE_SETS = {"first": [f"GENE{i}" for i in range(40)], "others": [f"GENE{i}" for i in range(40, 80)]}
GENE_LABELS = {f"GENE{i}": i % 2 for i in range(40)}
# What must be there before a tool is called, and what it takes beside the data; nothing for the others.
BEFORE = {
    "pp.recover_counts": log_normalised,
    "tl.benchmark": cf.tl.embed,
    "tl.evaluate_reverse": with_conditions,
    "tl.evaluate_unknowns": with_third_label,
    "tl.fit_perturbation": with_conditions,
    "tl.gene_embeddings": with_gene_embeddings,
    "tl.gene_modules": with_gene_embeddings,
    "tl.enrich_modules": with_modules,
    "tl.compare_modules": with_gene_embeddings,
    "tl.gene_function": with_gene_embeddings,
    "tl.gene_network": with_gene_embeddings,
    "tl.perturb": with_conditions,
    "tl.predict_gene_function": with_gene_embeddings,
    "tl.rank_perturbations": with_conditions,
    "tl.screen_perturbations": with_conditions,
    "tl.score_modules": with_modules,
}
OPTIONS = {
    "tl.fit_transport": {
        "condition_key": "condition",
        "source": "ctrl",
        "target": "stim",
        "method": "mean_shift",
        "space": "pca",
    },
    "tl.compare_transport": {"umap": True},
    "tl.rank_lncrnas": {"groupby": "label", "biotypes": {"GENE1": "lncRNA"}, "n_permutations": 2},
    "tl.perturbed_genes": {"genes": ["GENE1"]},
    "tl.gene_contributions": {"groupby": "label", "reference": "rest", "n_deletions": 1},
    "tl.evaluate_annotation": {"labels_key": "label", "methods": "knn", "n_folds": 2},
    "tl.evaluate_unknowns": {"labels_key": "label", "methods": "knn", "left_out": "C"},
    "tl.transfer_labels": {"labels_key": "label"},
    "tl.fit_annotator": {"labels_key": "label"},
    "tl.fit_perturbation": {"condition_key": "condition", "n_epochs": 1, "width": 4},
    "tl.perturb": {"perturbations": ["GENE1", "GENE2+GENE3"]},
    "tl.rank_perturbations": {"target": pd.Series(1.0, index=[f"GENE{i}" for i in range(300)])},
    "tl.screen_perturbations": {"genes": ["GENE1", "GENE2", "GENE3"], "umap": False},
    "tl.annotate": {"labels_key": "label", "majority_voting": True},
    "tl.gene_modules": {"umap": True, "resolution": [1.0, 2.0]},
    "tl.enrich_modules": {"gene_sets": GENE_SETS},
    "tl.compare_modules": {"gene_sets": GENE_SETS, "resolutions": [1]},
    "tl.gene_function": {"labels": GENE_LABELS, "n_repeats": 1, "n_folds": 2, "n_epochs": 1},
    "tl.predict_gene_function": {"labels": GENE_LABELS},
    "tl.benchmark": {"batch_key": "batch", "label_key": "label"},
    "tl.integrate": {"batch_key": "batch", "steps": 2, "umap": True},
    "tl.gene_network": {"genes": ["GENE1", "GENE2", "GENE3"]},
}


# What else tools take first.
GIVEN = {
    "tl.compare_transport": fitted_transport,
    "tl.fit_transport": many_cells,
    "tl.transport": fitted_transport,
}


@pytest.mark.filterwarnings("ignore:9 conditions have fewer:cellfm.errors.DataWarning")
@pytest.mark.filterwarnings("ignore:Predictions hardly differ:cellfm.errors.DataWarning")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "tl.benchmark" else [])
        for name in TOOLS
        if not name.startswith("pl.")
    ],
)
def test_docstrings_name_every_key_that_is_written(name: str, tiny_adata: AnnData, tiny_model: CellFM):
    if name in BEFORE:
        BEFORE[name](tiny_adata, tiny_model)
    before = stored(tiny_adata)
    first, *others = inspect.signature(TOOLS[name]).parameters
    given = fitted_predictor(tiny_adata, tiny_model) if first == "predictor" else tiny_adata
    given = GIVEN[name](tiny_adata, tiny_model) if name in GIVEN else given
    beside = {"model": tiny_model, "reference": tiny_adata[:30].copy()}
    if first == "model":
        beside |= {"cells": tiny_adata, "observed": tiny_adata}
    returned = TOOLS[name](given, **{key: beside[key] for key in beside if key in others} | OPTIONS.get(name, {}))
    written = stored(tiny_adata) - before
    assert bool(written) != (name in READ_ONLY)
    docstring = inspect.getdoc(TOOLS[name]) or ""
    if isinstance(returned, AnnData):
        written |= stored(returned) - before - {'uns["cellfm"]'}
    assert not [key for key in written if key not in docstring]


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
