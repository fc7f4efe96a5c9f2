"""Annotators on disk: ``annotator.json``, ``head.safetensors`` and, where its name does not tell, ``model/``."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cellfm._atomic import whole_folder
from cellfm.errors import CheckpointError, InputError
from cellfm.model import CellFM, load_model, resolve_model
from cellfm.model._checkpoint import read_facts
from cellfm.settings import model_folder
from cellfm.tasks.annotation._annotator import Annotator
from cellfm.tasks.annotation._head import head_of
from cellfm.tasks.annotation._reject import Reference

FACTS_FILE = "annotator.json"
HEAD_FILE = "head.safetensors"
MODEL_FOLDER = "model"
FORMAT = 1
NAMED_MODELS = ("mini", "80M", "800M")
_REFERENCE = ("mean", "whiten", "centres")
_NUMBERS = ("temperature", "confidence_threshold", "distance_threshold")


def write_annotator(annotator: Annotator, folder: Path, *, overwrite: bool = False) -> None:
    """Write an annotator, whole or not at all; see `Annotator.save`."""
    arrays = {f"head.{name}": array for name, array in annotator.head.arrays().items()}
    arrays |= {f"reference.{name}": getattr(annotator.reference, name) for name in _REFERENCE}
    arrays["gene_ids"] = annotator.gene_ids
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    model = annotator.model
    facts = {
        "format": FORMAT,
        "model": {"name": model.name, "weights_sha256": model.weights_hash, "vocabulary_sha256": model.vocab.hash},
        "head_sha256": hashlib.sha256(content).hexdigest(),
        "head": annotator.head.kind,
        "classes": list(annotator.classes),
        "colors": list(annotator.colors),
        "method": annotator.method,
        # As text, because JSON has no infinity.
        **{name: repr(float(getattr(annotator, name))) for name in _NUMBERS},
        "n_cells": annotator.n_cells,
        "random_state": annotator.random_state,
        "history": json.loads(annotator.history.to_json(orient="split", index=False, double_precision=15)),
    }
    with whole_folder(folder, overwrite=overwrite) as partial:
        (partial / HEAD_FILE).write_bytes(content)
        (partial / FACTS_FILE).write_text(json.dumps(facts, indent=1) + "\n")
        if not _found_by_name(model):
            model.save(partial / MODEL_FOLDER)


def read_annotator(folder: Path, model: str | Path | CellFM | None = None) -> Annotator:
    """Read an annotator; see `Annotator.load`."""
    facts = _read_facts(folder)
    path = folder / HEAD_FILE
    if not path.exists():
        raise CheckpointError(f"{folder}: {HEAD_FILE} is missing.")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != facts["head_sha256"]:
        raise CheckpointError(f"{path} is damaged or incomplete: its checksum is not the one in {FACTS_FILE}.")
    try:
        arrays = load(content)
        head = head_of(facts["head"], _part(arrays, "head."))
        reference = Reference(**_part(arrays, "reference."))
        return Annotator(
            model=_model(folder, facts["model"], model),
            classes=tuple(facts["classes"]),
            method=facts["method"],
            head=head,
            reference=reference,
            gene_ids=arrays["gene_ids"],
            history=pd.DataFrame(facts["history"]["data"], columns=facts["history"]["columns"]),
            n_cells=facts["n_cells"],
            random_state=facts["random_state"],
            colors=tuple(facts["colors"]),
            **{name: float(facts[name]) for name in _NUMBERS},
        )
    except CheckpointError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder} is no annotator of this version of cellfm: {error}.") from error


def _read_facts(folder: Path) -> dict[str, Any]:
    path = folder / FACTS_FILE
    if not path.exists():
        raise InputError(f"{folder} is not an annotator: it holds no {FACTS_FILE}.")
    try:
        facts = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(facts, dict) or not {"format", "head_sha256", "model"} <= facts.keys():
        raise CheckpointError(f"{path} lacks entries: it was not written by cellfm, or is incomplete.")
    if facts["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {facts['format']!r}; this version of cellfm reads format {FORMAT}.")
    return facts


def _model(folder: Path, facts: dict[str, str], given: str | Path | CellFM | None) -> CellFM:
    """The model of an annotator, verified by its hashes."""
    own = folder / MODEL_FOLDER
    if given is not None:
        model = resolve_model(given)
    elif own.exists():
        model = load_model(own)
    elif facts["name"] in NAMED_MODELS:
        model = load_model(facts["name"])
    else:
        raise CheckpointError(f"{folder}: the folder {MODEL_FOLDER!r} is missing; pass model= with {facts['name']!r}.")
    if (model.weights_hash, model.vocab.hash) != (facts["weights_sha256"], facts["vocabulary_sha256"]):
        raise CheckpointError(
            f"{folder} was fitted with another model ({facts['name']!r}, weights {facts['weights_sha256'][:12]}) than "
            f"{model.name!r} (weights {model.weights_hash[:12]}): their embeddings have nothing in common."
        )
    return model


def _found_by_name(model: CellFM) -> bool:
    """Whether the model's name gives these very weights anywhere."""
    if model.name not in NAMED_MODELS:
        return False
    folder = model_folder(model.name)
    return folder.exists() and read_facts(folder)["weights_sha256"] == model.weights_hash


def _part(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
