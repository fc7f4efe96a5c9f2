"""Predictors of perturbations on disk: ``predictor.json`` and ``predictor.safetensors``."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cellfm._atomic import whole_folder
from cellfm.errors import CheckpointError, InputError
from cellfm.model import CellFM, resolve_model
from cellfm.tasks.perturbation._conditions import Condition
from cellfm.tasks.perturbation._graphs import Graph
from cellfm.tasks.perturbation._predictor import PerturbationPredictor
from cellfm.tasks.perturbation._profiles import Profiles
from cellfm.tasks.perturbation._recipe import Recipe
from cellfm.tasks.perturbation._split import Split

FACTS_FILE = "predictor.json"
ARRAYS_FILE = "predictor.safetensors"
FORMAT = 1
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
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None})
    facts = {
        "format": FORMAT,
        "arrays_sha256": hashlib.sha256(content).hexdigest(),
        "model": predictor.model,
        "recipe": asdict(predictor.recipe),
        "conditions": [list(condition) for condition in profiles.conditions],
        "split": {part: [list(condition) for condition in getattr(predictor.split, part)] for part in _PARTS},
        **{name: list(getattr(predictor, name)) for name in _NAMES},
        **{name: _plain(getattr(predictor, name)) for name in _TABLES},
    }
    with whole_folder(folder, overwrite=overwrite) as partial:
        (partial / ARRAYS_FILE).write_bytes(content)
        (partial / FACTS_FILE).write_text(json.dumps(facts, indent=1) + "\n")


def read_predictor(folder: Path, model: str | Path | CellFM | None = None) -> PerturbationPredictor:
    """Read a predictor; see `PerturbationPredictor.load`."""
    from cellfm.tasks.perturbation._train import NetworkInput

    facts = _read_facts(folder)
    path = folder / ARRAYS_FILE
    if not path.exists():
        raise CheckpointError(f"{folder}: {ARRAYS_FILE} is missing.")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != facts["arrays_sha256"]:
        raise CheckpointError(f"{path} is damaged or incomplete: its checksum is not the one in {FACTS_FILE}.")
    try:
        if model is not None:
            _check_model(folder, facts["model"], resolve_model(model))
        arrays = load(content)
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
            weights={name[8:]: array for name, array in arrays.items() if name.startswith("weights.")},
            **{name: tuple(facts[name]) for name in _NAMES},
            **{name: pd.DataFrame(facts[name]["data"], columns=facts[name]["columns"]) for name in _TABLES},
        )
    except CheckpointError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder} is no predictor of this version of cellfm: {error}.") from error


def _read_facts(folder: Path) -> dict[str, Any]:
    path = folder / FACTS_FILE
    if not path.exists():
        raise InputError(f"{folder} is not a predictor of perturbations: it holds no {FACTS_FILE}.")
    try:
        facts = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(facts, dict) or not {"format", "arrays_sha256", "model"} <= facts.keys():
        raise CheckpointError(f"{path} lacks entries: it was not written by cellfm, or is incomplete.")
    if facts["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {facts['format']!r}; this version of cellfm reads format {FORMAT}.")
    return facts


def _check_model(folder: Path, facts: dict[str, str], model: CellFM) -> None:
    if (model.weights_hash, model.vocab.hash) != (facts["weights_sha256"], facts["vocabulary_sha256"]):
        raise CheckpointError(
            f"{folder} was fitted with another model ({facts['name']!r}, weights {facts['weights_sha256'][:12]}) than "
            f"{model.name!r} (weights {model.weights_hash[:12]})."
        )


def _plain(table: pd.DataFrame) -> dict[str, Any]:
    return json.loads(table.to_json(orient="split", index=False, double_precision=15))


def _conditions(lists: list[list[str]]) -> tuple[Condition, ...]:
    return tuple(tuple(genes) for genes in lists)
