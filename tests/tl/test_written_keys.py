"""Each tool once: what it writes to AnnData is named in its docstring."""

import inspect

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

# Tools that hand back what they found and write nothing.
READ_ONLY = {
    "pp.check",
    "tl.benchmark",
    "tl.compare_transport",
    "tl.evaluate_annotation",
    "tl.evaluate_perturbation_ranking",
    "tl.evaluate_unknowns",
    "tl.fit_annotator",
    "tl.fit_perturbation",
    "tl.fit_transport",
    "tl.gene_function",
    "tl.perturb",
    "tl.predict_gene_function",
    "tl.rank_perturbations",
    "tl.screen_perturbations",
    "tl.transport",
}


TOOLS = {
    f"{name}.{public}": getattr(getattr(cf, name), public)
    for name in ("pp", "tl")
    for public in getattr(cf, name).__all__
    if inspect.isfunction(getattr(getattr(cf, name), public))
}


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
    "tl.evaluate_perturbation_ranking": with_conditions,
    "tl.evaluate_unknowns": with_third_label,
    "tl.fit_perturbation": with_conditions,
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
    "tl.attention_partners": {"genes": ["GENE1"]},
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
    [pytest.param(name, marks=[pytest.mark.slow] if name == "tl.benchmark" else []) for name in TOOLS],
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
