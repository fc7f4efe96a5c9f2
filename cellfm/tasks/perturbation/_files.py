"""Predictors of perturbations on disk: ``predictor.json`` and ``predictor.safetensors``."""

from dataclasses import asdict
from pathlib import Path

from cellfm.model import CellFM, resolve_model
from cellfm.tasks._fitted import FittedFiles, part_of, require_same_model, table_facts, table_of
from cellfm.tasks.perturbation._conditions import Condition
from cellfm.tasks.perturbation._graphs import Graph
from cellfm.tasks.perturbation._predictor import PerturbationPredictor
from cellfm.tasks.perturbation._profiles import Profiles
from cellfm.tasks.perturbation._recipe import Recipe
from cellfm.tasks.perturbation._split import Split

FILES = FittedFiles("a predictor of perturbations", "predictor", "predictor.json", "predictor.safetensors")
_TABLES = ("history", "scores", "evaluation")
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
    arrays["controls"] = predictor.controls
    facts = {
        "model": predictor.model,
        "recipe": asdict(predictor.recipe),
        "conditions": [list(condition) for condition in profiles.conditions],
        "split": {part: [list(condition) for condition in getattr(predictor.split, part)] for part in _PARTS},
        **{name: list(getattr(predictor, name)) for name in _NAMES},
        **{name: table_facts(getattr(predictor, name)) for name in _TABLES},
    }
    there = {name: array for name, array in arrays.items() if array is not None}
    FILES.write(folder, facts, there, overwrite=overwrite)


def read_predictor(folder: Path, model: str | Path | CellFM | None = None) -> PerturbationPredictor:
    """Read a predictor; see `PerturbationPredictor.load`."""
    from cellfm.tasks.perturbation._train import NetworkInput

    with FILES.read(folder) as (facts, arrays):
        if model is not None:
            require_same_model(folder, facts["model"]["name"], facts["model"], resolve_model(model), why="")
        graphs = [Graph(arrays[f"{n}.neighbours"], arrays[f"{n}.weights"]) for n in ("coexpression", "relations")]
        return PerturbationPredictor(
            profiles=Profiles(
                _conditions(facts["conditions"]), *(arrays[f"profiles.{n}"] for n in ("mean", "variance", "n_cells"))
            ),
            controls=arrays["controls"],
            split=Split(*(_conditions(facts["split"][part]) for part in _PARTS)),
            model=facts["model"],
            recipe=Recipe(**facts["recipe"]),
            given=NetworkInput(*graphs, arrays.get("given.genes"), arrays.get("given.perturbations")),
            weights=part_of(arrays, "weights."),
            **{name: tuple(facts[name]) for name in _NAMES},
            **{name: table_of(facts[name]) for name in _TABLES},
        )


def _conditions(lists: list[list[str]]) -> tuple[Condition, ...]:
    return tuple(tuple(genes) for genes in lists)
