"""Every public function and class has an example, and every example runs, on small data and without network."""

import ast
import contextlib
import doctest
import importlib
import inspect
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData

import cellfm as cf
from cellfm.settings import Settings

NAMESPACES = ("cellfm", "cellfm.pp", "cellfm.tl", "cellfm.pl", "cellfm.get", "cellfm.train", "cellfm.model")
NEED_NETWORK = {'model = cf.load_model("80M")'}  # the only lines that are skipped
TYPES = {"CD14+ Monocyte": 70, "CD19+ B": 70, "Dendritic": 60}
DRIVERS = ["CD3D", "CD3E", "CD2", "LYZ", "CST3"]


def public() -> dict[str, Any]:
    """Functions and classes by name; what two namespaces offer is here once."""
    found = {"cellfm.settings.Settings": Settings}
    for space in NAMESPACES:
        module = importlib.import_module(space)
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value) and value not in found.values():
                found[f"{space}.{name}"] = value
    return found


# What the examples may name without making it: said on the first page of the API.


@cache
def blood() -> AnnData:
    """200 blood cells of three kinds, as log-normalised values."""
    cells = sc.datasets.pbmc68k_reduced()
    chosen = np.concatenate([np.flatnonzero(cells.obs["bulk_labels"] == name)[:n] for name, n in TYPES.items()])
    cells = cells[np.sort(chosen)]
    log = AnnData(
        cells.raw.X.copy(), obs=pd.DataFrame(index=cells.obs_names), var=pd.DataFrame(index=cells.raw.var_names)
    )
    log.obs["cell_type"] = pd.Categorical(cells.obs["bulk_labels"].astype(str))
    log.obs["donor"] = pd.Categorical(np.where(np.arange(log.n_obs) % 3, "one", "two"))
    log.obs["condition"] = pd.Categorical(np.where(np.arange(log.n_obs) % 2, "stim", "ctrl"))
    return log


@cache
def counted() -> AnnData:
    cells = blood().copy()
    cf.pp.recover_counts(cells)
    cells.X = cells.layers.pop("counts")
    return cells


@cache
def perturbed() -> AnnData:
    """Counts of five genes, perturbed alone and in pairs, and of control."""
    random = np.random.default_rng(0)
    genes = [*DRIVERS, *blood().var_names.drop(DRIVERS)[:120]]
    own = dict(zip(DRIVERS, random.standard_normal((len(DRIVERS), len(genes))) * 0.4, strict=True))
    labels = ["control", *DRIVERS, *("+".join(pair) for pair in combinations(DRIVERS, 2))]
    base = random.gamma(1.0, 2.0, len(genes))
    rates = [base * np.exp(sum(own[gene] for gene in label.split("+") if gene in own)) for label in labels]
    counts = np.concatenate([random.poisson(rate, (12, len(genes))) for rate in rates])
    cells = AnnData(sp.csr_matrix(counts, dtype=np.float32), var=pd.DataFrame(index=genes))
    cells.obs["condition"] = np.repeat(labels, 12)
    return cells


@cache
def labels() -> pd.Series:
    kinds = {"NDUFA": "respiration", "NDUFB": "respiration", "PSMA": "other", "PSMB": "other"}
    names = cf.load_model("mini").vocab.symbols
    return pd.Series({gene: kind for gene in names for start, kind in kinds.items() if gene.startswith(start)})


@cache
def gene_sets() -> dict[str, list[str]]:
    names = blood().var_names
    return {
        "ribosome": [gene for gene in names if gene.startswith(("RPL", "RPS"))],
        "antigen presentation": [gene for gene in names if gene.startswith(("HLA-", "CD74"))],
    }


@cache
def places() -> tuple[sp.csr_matrix, np.ndarray]:
    """Counts of the genes that `mini` knows, and their ids."""
    vocab = cf.load_model("mini").vocab
    place = {symbol: i for i, symbol in enumerate(vocab.symbols)}
    known = np.array([name in place for name in counted().var_names])
    ids = np.array([place[name] + 1 for name in counted().var_names[known]])
    return counted().X[:, known].tocsr(), ids


GIVEN: dict[str, Callable[[], Any]] = {
    "adata": lambda: counted().copy(),
    "query": lambda: counted()[::2].copy(),
    "reference": lambda: counted()[1::2].copy(),
    "log_normalised": lambda: blood().copy(),
    "perturbed": lambda: perturbed().copy(),
    "labels": labels,
    "gene_sets": gene_sets,
    "model": cf.load_model,
    "counts": lambda: places()[0],
    "gene_ids": lambda: places()[1],
    # These are what other examples made.
    "predictor": lambda: ran("cellfm.tl.fit_perturbation").names["predictor"],
    "fitted": lambda: ran("cellfm.tl.fit_transport").names["fitted"],
    "integrated": lambda: ran("cellfm.tl.integrate").names["adata"].copy(),
    "small": lambda: ran("cellfm.train.pretrain").names["small"],
    "scores": lambda: ran("cellfm.tl.benchmark").names["scores"],
}


class Checker(doctest.OutputChecker):
    """As doctest's, but a line below which nothing is expected may say anything."""

    def check_output(self, want: str, got: str, flags: int) -> bool:
        return not want or super().check_output(want, got, flags)


@dataclass(frozen=True)
class Ran:
    failures: str
    names: dict[str, Any]


def examples_of(value: Any) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(inspect.cleandoc(value.__doc__ or ""))


@cache
def ran(whole: str) -> Ran:
    """Run the example of a name, once, in a folder of its own."""
    value = public()[whole]
    examples = examples_of(value)
    source = "".join(example.source for example in examples)
    tree = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)]
    given = {node.id for node in tree if isinstance(node.ctx, ast.Load)} - {
        node.id for node in tree if isinstance(node.ctx, ast.Store)
    }
    names = {"cf": cf, "np": np, "pd": pd, "sc": sc, **{name: GIVEN[name]() for name in given & GIVEN.keys()}}
    test = doctest.DocTest(examples, names, whole, inspect.getsourcefile(value), 0, None)
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the data are too small for some tools, which say so
        if '"corpus"' in source:
            cf.train.write_shards(counted(), "corpus", min_genes=100, validation_fraction=0.1, columns=["cell_type"])
        runner = doctest.DocTestRunner(Checker(), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        runner.run(test, out=said.append, clear_globs=False)
    plt.close("all")
    return Ran("".join(said) if runner.failures else "", test.globs)


def test_only_what_needs_the_network_is_skipped():
    lines = [example for value in public().values() for example in examples_of(value)]
    assert {line.source.partition("#")[0].strip() for line in lines if line.options.get(doctest.SKIP)} == NEED_NETWORK


@pytest.mark.parametrize("whole", public())
def test_has_an_example_that_names_it(whole: str):
    sources = "".join(example.source for example in examples_of(public()[whole]))
    name = {"Settings": "settings", "CellFM": "load_model", "Encoded": "encode", "Attended": "attend"}
    name |= {"Contributions": "contributions"}
    last = whole.rpartition(".")[2]
    assert name.get(last, last) in sources, f"{whole} has no example"


@pytest.mark.usefixtures("own_logger")
@pytest.mark.parametrize("whole", public())
def test_example_runs(whole: str):
    failures = ran(whole).failures
    assert not failures, failures
