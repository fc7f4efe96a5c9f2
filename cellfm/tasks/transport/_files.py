"""Save and load transport models: ``transport.json`` and ``transport.safetensors``."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from cellfm.errors import CheckpointError, InputError
from cellfm.model import CellFM, load_model, resolve_model
from cellfm.tasks._fitted import FittedFiles, part_of, require_same_model, require_use, table_facts, table_of, texts_of
from cellfm.tasks.transport._maps import METHODS, Map, Method
from cellfm.tasks.transport._model import TransportModel, model_facts
from cellfm.tasks.transport._recipe import Recipe
from cellfm.tasks.transport._spaces import SPACES, Space

FILES = FittedFiles("a transport model", "transport model", "transport.json", "transport.safetensors")
_TABLES = ("history", "evaluation")
_WORDS = ("condition_key", "source", "target")


def write_transport(transport: TransportModel, folder: Path, *, overwrite: bool = False) -> None:
    """Write a model, completely or not at all; see `TransportModel.save`."""
    arrays = {f"space.{name}": array for name, array in transport.space.arrays.items()}
    arrays |= {f"map.{name}": array for name, array in transport.map.arrays.items()}
    facts = {
        "model": None if transport.model is None else model_facts(transport.model),
        "space": transport.space.kind,
        "method": transport.method,
        "recipe": asdict(transport.recipe),
        "holdout": transport.holdout,
        "genes": list(transport.genes),
        **{name: getattr(transport, name) for name in _WORDS},
        **{name: table_facts(getattr(transport, name)) for name in _TABLES},
    }
    FILES.write(folder, facts, arrays, overwrite=overwrite)


def read_transport(folder: Path, model: str | Path | CellFM | None = None) -> TransportModel:
    """Read a model; see `TransportModel.load`."""
    with FILES.read(folder) as (facts, arrays):
        recipe = facts["recipe"] | {"widths": tuple(facts["recipe"]["widths"])}
        found = TransportModel(
            genes=texts_of(facts["genes"]),
            space=Space(facts["space"], part_of(arrays, "space.")),
            map=Map(_method(facts), part_of(arrays, "map.")),
            recipe=Recipe(**recipe),
            holdout=None if facts["holdout"] is None else texts_of(facts["holdout"]),
            model=_model(folder, facts["model"], model),
            condition_key=facts["condition_key"],
            source=facts["source"],
            target=facts["target"],
            history=table_of(facts["history"]),
            evaluation=table_of(facts["evaluation"]),
        )
        _try(found)
        return found


def _method(facts: dict) -> Method:
    """The method; in older files a balanced shift in any space is called scGen."""
    return "latent_shift" if facts["method"] == "scgen" and facts["space"] != "scgen" else facts["method"]


def _try(transport: TransportModel) -> None:
    """Map one cell, which fails if the parts do not fit together."""
    require_use(transport.method in METHODS and transport.space.kind in SPACES, "the method and the space")
    require_use(all(isinstance(getattr(transport, name), str) for name in _WORDS), "the conditions")
    require_use(transport.holdout is None or len(transport.holdout) == 2, "the group that was left out")
    values = np.zeros((1, len(transport.genes)), np.float32)
    x = values
    if transport.space.reads_embeddings:
        x = np.zeros((1, len(transport.space.arrays["cls_mean"])), np.float32)
        require_use(transport.model is not None and transport.model.config.d_model == x.shape[1], "the model")
    with np.errstate(all="ignore"):
        require_use(transport.carry(x, values).values.shape == values.shape, "the arrays and the genes")


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
            f"{folder} was fitted with the model {facts['model']!r}, which was not found by this name: pass it as "
            f"model= ({error})"
        ) from error
    require_same_model(folder, facts["model"], facts, model)
    return model
