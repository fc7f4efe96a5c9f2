"""Maps between conditions on disk: ``transport.json`` and ``transport.safetensors``."""

from dataclasses import asdict
from pathlib import Path

from cellfm.errors import CheckpointError, InputError
from cellfm.model import CellFM, load_model, resolve_model
from cellfm.tasks._fitted import FittedFiles, part_of, require_same_model, table_facts, table_of
from cellfm.tasks.transport._maps import Map
from cellfm.tasks.transport._model import TransportModel, model_facts
from cellfm.tasks.transport._recipe import Recipe
from cellfm.tasks.transport._spaces import Space

FILES = FittedFiles("a transport model", "transport model", "transport.json", "transport.safetensors")
_TABLES = ("history", "evaluation")
_WORDS = ("condition_key", "source", "target")


def write_transport(transport: TransportModel, folder: Path, *, overwrite: bool = False) -> None:
    """Write a model, whole or not at all; see `TransportModel.save`."""
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
        return TransportModel(
            genes=tuple(facts["genes"]),
            space=Space(facts["space"], part_of(arrays, "space.")),
            map=Map(facts["method"], part_of(arrays, "map.")),
            recipe=Recipe(**recipe),
            holdout=None if facts["holdout"] is None else tuple(facts["holdout"]),
            model=_model(folder, facts["model"], model),
            **{name: facts[name] for name in _WORDS},
            **{name: table_of(facts[name]) for name in _TABLES},
        )


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
    require_same_model(folder, facts["model"], facts, model)
    return model
