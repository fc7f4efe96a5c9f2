"""Save and load annotators: ``annotator.json``, ``head.safetensors`` and, unless its name identifies it, ``model/``."""

from pathlib import Path
from typing import get_args

import numpy as np

from cellfm.errors import CheckpointError
from cellfm.model import CellFM, load_model, resolve_model
from cellfm.model._checkpoint import read_facts
from cellfm.settings import model_folder
from cellfm.tasks._fitted import FittedFiles, part_of, require_same_model, require_use, table_facts, table_of, texts_of
from cellfm.tasks.annotation._annotator import Annotator
from cellfm.tasks.annotation._head import CombinedHead, MLPHead, head_of
from cellfm.tasks.annotation._reject import Reference
from cellfm.tasks.annotation._train import Method

FILES = FittedFiles("an annotator", "annotator", "annotator.json", "head.safetensors", checksum="head_sha256")
MODEL_FOLDER = "model"
NAMED_MODELS = ("mini", "80M", "800M")
_REFERENCE = ("mean", "whiten", "centres")
_NUMBERS = ("temperature", "confidence_threshold", "distance_threshold")


def write_annotator(annotator: Annotator, folder: Path, *, overwrite: bool = False) -> None:
    """Write an annotator, completely or not at all; see `Annotator.save`."""
    arrays = {f"head.{name}": array for name, array in annotator.head.arrays().items()}
    arrays |= {f"reference.{name}": getattr(annotator.reference, name) for name in _REFERENCE}
    arrays["gene_ids"] = annotator.gene_ids
    model = annotator.model
    facts = {
        "model": {"name": model.name, "weights_sha256": model.weights_hash, "vocabulary_sha256": model.vocab.hash},
        "head": annotator.head.kind,
        "classes": list(annotator.classes),
        "colors": list(annotator.colors),
        "method": annotator.method,
        # As text, because JSON has no infinity.
        **{name: repr(float(getattr(annotator, name))) for name in _NUMBERS},
        "n_cells": annotator.n_cells,
        "random_state": annotator.random_state,
        "history": table_facts(annotator.history),
        "selection": None if annotator.selection is None else table_facts(annotator.selection),
    }

    def add_model(partial: Path) -> None:
        if not _found_by_name(model):
            model.save(partial / MODEL_FOLDER)

    FILES.write(folder, facts, arrays, overwrite=overwrite, also=add_model)


def read_annotator(folder: Path, model: str | Path | CellFM | None = None) -> Annotator:
    """Read an annotator; see `Annotator.load`."""
    with FILES.read(folder) as (facts, arrays):
        annotator = Annotator(
            model=_model(folder, facts["model"], model),
            classes=texts_of(facts["classes"]),
            method=facts["method"],
            head=head_of(facts["head"], part_of(arrays, "head.")),
            reference=Reference(**part_of(arrays, "reference.")),
            gene_ids=arrays["gene_ids"],
            history=table_of(facts["history"]),
            n_cells=facts["n_cells"],
            random_state=facts["random_state"],
            colors=texts_of(facts["colors"]),
            selection=table_of(found) if (found := facts.get("selection")) else None,
            **{name: float(facts[name]) for name in _NUMBERS},
        )
        _try(annotator)
        return annotator


def _try(annotator: Annotator) -> None:
    """Classify one cell, which fails if the parts do not fit together."""
    cell = np.zeros((1, annotator.model.config.d_model), np.float32)
    n_classes = len(annotator.classes)
    require_use(annotator.method in get_args(Method), "the way of fitting and the classes")
    require_use(annotator.head.n_classes == n_classes == len(annotator.reference.centres), "the classes")
    require_use(len(annotator.colors) in (0, n_classes), "the colours")
    require_use(annotator.reference.distance(cell).shape == (1,), "the arrays of the reference")
    require_use(annotator.gene_ids.ndim == 1 and annotator.gene_ids.dtype.kind in "iu", "the genes")
    for number in (annotator.n_cells, annotator.random_state):
        require_use(isinstance(number, int) and not isinstance(number, bool), "the numbers")
    require_use((annotator.selection is None) == (annotator.method != "auto"), "the candidates")
    if annotator.selection is not None:
        require_use(annotator.choice != "", "the candidates")
    if isinstance(annotator.head, CombinedHead):
        genes = np.zeros((1, len(annotator.head.genes.ids)), np.float32)
        require_use(annotator.head.logits(genes, cell).shape == (1, n_classes), "the arrays of the head")
    if isinstance(annotator.head, MLPHead):
        require_use(annotator.head.mlp.logits(cell).shape == (1, n_classes), "the arrays of the head")


def _model(folder: Path, facts: dict[str, str], given: str | Path | CellFM | None) -> CellFM:
    """The model of an annotator, verified by its hashes."""
    model_folder = folder / MODEL_FOLDER
    if given is not None:
        model = resolve_model(given)
    elif model_folder.exists():
        model = load_model(model_folder)
    elif facts["name"] in NAMED_MODELS:
        model = load_model(facts["name"])
    else:
        raise CheckpointError(f"{folder}: the folder {MODEL_FOLDER!r} is missing; pass model= with {facts['name']!r}.")
    require_same_model(folder, facts["name"], facts, model)
    return model


def _found_by_name(model: CellFM) -> bool:
    """Whether the model's name identifies these weights on any machine."""
    if model.name not in NAMED_MODELS:
        return False
    folder = model_folder(model.name)
    return folder.exists() and read_facts(folder)["weights_sha256"] == model.weights_hash
