"""Maps between conditions on disk: ``transport.json`` and ``transport.safetensors``."""

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
from cellfm.model import CellFM, load_model, resolve_model
from cellfm.tasks.transport._maps import Map
from cellfm.tasks.transport._model import TransportModel, model_facts
from cellfm.tasks.transport._recipe import Recipe
from cellfm.tasks.transport._spaces import Space

FACTS_FILE = "transport.json"
ARRAYS_FILE = "transport.safetensors"
FORMAT = 1
_TABLES = ("history", "evaluation")
_WORDS = ("condition_key", "source", "target")


def write_transport(transport: TransportModel, folder: Path, *, overwrite: bool = False) -> None:
    """Write a model, whole or not at all; see `TransportModel.save`."""
    arrays = {f"space.{name}": array for name, array in transport.space.arrays.items()}
    arrays |= {f"map.{name}": array for name, array in transport.map.arrays.items()}
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    facts = {
        "format": FORMAT,
        "arrays_sha256": hashlib.sha256(content).hexdigest(),
        "model": None if transport.model is None else model_facts(transport.model),
        "space": transport.space.kind,
        "method": transport.method,
        "recipe": asdict(transport.recipe),
        "holdout": transport.holdout,
        "genes": list(transport.genes),
        **{name: getattr(transport, name) for name in _WORDS},
        **{name: _plain(getattr(transport, name)) for name in _TABLES},
    }
    with whole_folder(folder, overwrite=overwrite) as partial:
        (partial / ARRAYS_FILE).write_bytes(content)
        (partial / FACTS_FILE).write_text(json.dumps(facts, indent=1) + "\n")


def read_transport(folder: Path, model: str | Path | CellFM | None = None) -> TransportModel:
    """Read a model; see `TransportModel.load`."""
    facts = _read_facts(folder)
    path = folder / ARRAYS_FILE
    if not path.exists():
        raise CheckpointError(f"{folder}: {ARRAYS_FILE} is missing.")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != facts["arrays_sha256"]:
        raise CheckpointError(f"{path} is damaged or incomplete: its checksum is not the one in {FACTS_FILE}.")
    try:
        arrays = load(content)
        recipe = facts["recipe"] | {"widths": tuple(facts["recipe"]["widths"])}
        return TransportModel(
            genes=tuple(facts["genes"]),
            space=Space(facts["space"], _part(arrays, "space.")),
            map=Map(facts["method"], _part(arrays, "map.")),
            recipe=Recipe(**recipe),
            holdout=None if facts["holdout"] is None else tuple(facts["holdout"]),
            model=_model(folder, facts["model"], model),
            **{name: facts[name] for name in _WORDS},
            **{name: pd.DataFrame(facts[name]["data"], columns=facts[name]["columns"]) for name in _TABLES},
        )
    except CheckpointError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder} is no transport model of this version of cellfm: {error}.") from error


def _read_facts(folder: Path) -> dict[str, Any]:
    path = folder / FACTS_FILE
    if not path.exists():
        raise InputError(f"{folder} is not a transport model: it holds no {FACTS_FILE}.")
    try:
        facts = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(facts, dict) or not {"format", "arrays_sha256", "model"} <= facts.keys():
        raise CheckpointError(f"{path} lacks entries: it was not written by cellfm, or is incomplete.")
    if facts["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {facts['format']!r}; this version of cellfm reads format {FORMAT}.")
    return facts


def _model(folder: Path, facts: dict[str, str] | None, given: str | Path | CellFM | None) -> CellFM | None:
    """The CellFM model of the fit, verified by its hashes."""
    if facts is None:
        return None
    try:
        model = load_model(facts["model"]) if given is None else resolve_model(given)
    except InputError as error:
        if given is not None:
            raise
        raise CheckpointError(
            f"{folder} was fitted with the model {facts['model']!r}, which is not found by this name: pass model= with "
            f"it ({error})"
        ) from error
    if (model.weights_hash, model.vocab.hash) != (facts["weights_sha256"], facts["vocabulary_sha256"]):
        raise CheckpointError(
            f"{folder} was fitted with another model ({facts['model']!r}, weights {facts['weights_sha256'][:12]}) than "
            f"{model.name!r} (weights {model.weights_hash[:12]}): their embeddings have nothing in common."
        )
    return model


def _plain(table: pd.DataFrame) -> dict[str, Any]:
    return json.loads(table.to_json(orient="split", index=False, double_precision=15))


def _part(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
