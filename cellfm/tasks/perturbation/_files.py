"""Predictors of perturbations on disk: ``predictor.json`` and ``predictor.safetensors``."""

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from cellfm.model import CellFM, resolve_model
from cellfm.tasks._fitted import FittedFiles, part_of, require_same_model, require_use, table_facts, table_of, texts_of
from cellfm.tasks.perturbation._baselines import ADDITIVE, BASELINES, BILINEAR_CELLFM, BILINEAR_PCA, MEAN, NO_CHANGE
from cellfm.tasks.perturbation._conditions import Condition
from cellfm.tasks.perturbation._graphs import Graph
from cellfm.tasks.perturbation._predictor import NETWORK, PerturbationPredictor
from cellfm.tasks.perturbation._profiles import Profiles
from cellfm.tasks.perturbation._recipe import Recipe
from cellfm.tasks.perturbation._split import Split

FILES = FittedFiles("a predictor of perturbations", "predictor", "predictor.json", "predictor.safetensors")
_TABLES = ("history", "scores", "evaluation", "choice")
_NAMES = ("genes", "symbols", "perturbable")
_PARTS = ("train", "validation", "test")


def write_predictor(predictor: PerturbationPredictor, folder: Path, *, overwrite: bool = False) -> None:
    """Write a predictor, whole or not at all; see `PerturbationPredictor.save`."""
    given, profiles = predictor.given, predictor.profiles
    arrays = {f"weights.{name}": array for name, array in predictor.weights.items()}
    for name in ("coexpression", "relations"):
        graph = getattr(given, name)
        arrays |= {f"{name}.neighbours": graph.neighbours, f"{name}.weights": graph.weights}
    arrays |= {f"given.{name}": getattr(given, name) for name in ("genes", "perturbations")}
    arrays |= {f"profiles.{name}": getattr(profiles, name) for name in ("mean", "variance", "n_cells")}
    arrays |= {f"vectors.{name}": array for name, array in predictor.vectors.items()}
    arrays["controls"] = predictor.controls
    facts = {
        "model": predictor.model,
        "recipe": asdict(predictor.recipe),
        "chosen": predictor.chosen,
        "conditions": [list(condition) for condition in profiles.conditions],
        "split": {part: [list(condition) for condition in getattr(predictor.split, part)] for part in _PARTS},
        **{name: list(getattr(predictor, name)) for name in _NAMES},
        **{name: table_facts(getattr(predictor, name)) for name in _TABLES},
    }
    present = {name: array for name, array in arrays.items() if array is not None}
    FILES.write(folder, facts, present, overwrite=overwrite)


def read_predictor(folder: Path, model: str | Path | CellFM | None = None) -> PerturbationPredictor:
    """Read a predictor; see `PerturbationPredictor.load`."""
    from cellfm.tasks.perturbation._train import NetworkInput

    with FILES.read(folder) as (facts, arrays):
        if model is not None:
            require_same_model(folder, facts["model"]["name"], facts["model"], resolve_model(model), why="")
        coexpression, relations = (
            Graph(arrays[f"{name}.neighbours"], arrays[f"{name}.weights"]) for name in ("coexpression", "relations")
        )
        found = PerturbationPredictor(
            profiles=Profiles(
                _conditions(facts["conditions"]), *(arrays[f"profiles.{n}"] for n in ("mean", "variance", "n_cells"))
            ),
            controls=arrays["controls"],
            split=Split(*(_conditions(facts["split"][part]) for part in _PARTS)),
            model=facts["model"],
            recipe=Recipe(**facts["recipe"]),
            given=NetworkInput(coexpression, relations, arrays.get("given.genes"), arrays.get("given.perturbations")),
            weights=part_of(arrays, "weights."),
            vectors=part_of(arrays, "vectors."),
            chosen=facts.get("chosen", NETWORK),
            choice=table_of(facts["choice"]) if "choice" in facts else _older_choice(),
            genes=texts_of(facts["genes"]),
            symbols=texts_of(facts["symbols"]),
            perturbable=texts_of(facts["perturbable"]),
            history=table_of(facts["history"]),
            scores=table_of(facts["scores"]),
            evaluation=table_of(facts["evaluation"]),
        )
        _try(found)
        return found


def _older_choice() -> pd.DataFrame:
    """Methods of files from before the choice of methods: the network, and those without vectors of genes."""
    return pd.DataFrame({"predictor": [NETWORK, NO_CHANGE, MEAN, ADDITIVE]})


def _try(predictor: PerturbationPredictor) -> None:
    """Look up and predict without the network, which fails if the parts do not fit together."""
    n_genes, n_perturbable = len(predictor.genes), len(predictor.perturbable)
    profiles, shape = predictor.profiles, (len(predictor.profiles.conditions), n_genes)
    require_use(len(predictor.symbols) == n_genes, "the genes and their symbols")
    require_use(profiles.mean.shape == profiles.variance.shape == shape, "the profiles")
    require_use(profiles.n_cells.shape == shape[:1], "the numbers of cells")
    require_use(predictor.controls.ndim == 2 and predictor.controls.shape[1] == n_genes, "the control cells")
    for graph, n in ((predictor.given.coexpression, n_genes), (predictor.given.relations, n_perturbable)):
        near = graph.neighbours
        require_use(near.ndim == 2 and near.shape == graph.weights.shape and len(near) == n, "the graphs")
        require_use(near.dtype.kind in "iu" and near.min(initial=0) >= 0 and near.max(initial=0) < n, "the graphs")
    for vectors, n in ((predictor.given.genes, n_genes), (predictor.given.perturbations, n_perturbable)):
        require_use(vectors is None or (vectors.ndim == 2 and len(vectors) == n), "the given vectors")
    require_use(predictor.chosen in predictor.methods and {*predictor.methods} <= {NETWORK, *BASELINES}, "the methods")
    for name, n in (("measured", n_genes), ("cellfm", n_perturbable)):
        vectors = predictor.vectors.get(name)
        require_use(vectors is None or (vectors.ndim == 2 and len(vectors) == n), "the vectors of genes")
    needed = {"measured": BILINEAR_PCA, "cellfm": BILINEAR_CELLFM}
    require_use(all(name in predictor.vectors for name in needed if needed[name] in predictor.methods), "the vectors")
    parts = (predictor.split.train, predictor.split.validation, predictor.split.test)
    changes = predictor.additive_changes(tuple(condition for part in parts for condition in part))
    require_use(changes.shape == (sum(map(len, parts)), n_genes), "the conditions")


def _conditions(lists: list[list[str]]) -> tuple[Condition, ...]:
    return tuple(texts_of(genes) for genes in lists)
