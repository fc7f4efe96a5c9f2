"""Configurations of training: presets, TOML files and single settings, read without an engine."""

import difflib
import tomllib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from cellfm.config import MODEL_PRESETS, PUBLISHED, ClusterConfig, ModelConfig, TrainConfig
from cellfm.errors import InputError

PRESETS = ("mini", "80M", "800M")
TABLES: dict[str, type[ModelConfig | TrainConfig | ClusterConfig]] = {
    "model": ModelConfig,
    "train": TrainConfig,
    "cluster": ClusterConfig,
}

# The paper's recipe for the published sizes (Methods, "Training"; see docs/pretraining.md for what is ours in "mini").
_PAPER: dict[str, Any] = {
    "learning_rate": 1e-7,
    "schedule": "constant",
    "batch_size": 128,
    "steps": 1_600_000,
    "precision": "float16",
    "n_chunks": 264,
    "recompute": True,
    "checkpoint_every": 5000,
    "validate_every": 5000,
}
TRAIN_PRESETS: dict[str, dict[str, Any]] = {"mini": {}, "80M": _PAPER, "800M": _PAPER}

Source = str | Path | dict[str, Any] | None
"""The name of a preset, a TOML file or a dict of its content; None for the preset ``"mini"``."""


def read_tables(source: Source) -> dict[str, Any]:
    """The tables of a configuration: ``preset`` (a name), and dicts ``model``, ``train`` and ``cluster``."""
    if source is None or (isinstance(source, str) and source in PRESETS):
        source = {"preset": source or "mini"}
    where = "The configuration"
    if isinstance(source, str | Path):
        where = str(source)
        source = _parsed(Path(source))
    for name in source:
        if name not in ("preset", *TABLES):
            raise InputError(f"{where} has an unknown entry {name!r}.{_hint(name)} Expected: preset, {_TABLE_NAMES}.")
    preset = source.get("preset", "mini")
    if preset not in PRESETS:
        raise InputError(f"No preset {preset!r}; available: {', '.join(PRESETS)}.")
    for name in TABLES:
        if not isinstance(source.get(name, {}), dict):
            raise InputError(f"{where}: {name} must be a table, [{name}], not {source[name]!r}.")
    return {"preset": preset} | {name: dict(source.get(name, {})) for name in TABLES}


def with_settings(source: Source, settings: Sequence[str]) -> dict[str, Any]:
    """The tables of a configuration with settings in the form ``table.field=value``."""
    tables = read_tables(source)
    for setting in settings:
        place, equals, text = setting.partition("=")
        table, dot, field = place.strip().partition(".")
        if not (equals and dot) or table not in TABLES:
            raise InputError(f"Cannot read the setting {setting!r}: expected TABLE.FIELD=VALUE, of {_TABLE_NAMES}.")
        tables[table][field] = _value(text.strip())
    return tables


def read_config(source: Source) -> tuple[dict[str, Any], TrainConfig]:
    """The model's fields and the training's part of a configuration; see `read_tables`."""
    tables = read_tables(source)
    model = MODEL_PRESETS[tables["preset"]] | tables["model"]
    model_of(model, n_genes=1)
    read_cluster(tables)
    return model, TrainConfig.from_dict(TRAIN_PRESETS[tables["preset"]] | tables["train"])


def model_of(fields: dict[str, Any], *, n_genes: int) -> ModelConfig:
    """The model of some fields; `n_genes` is used unless the fields have one."""
    return ModelConfig.from_dict({"n_genes": n_genes} | fields)


def read_cluster(source: Source) -> ClusterConfig | None:
    """The machines that train together, if the configuration names any."""
    fields = read_tables(source)["cluster"]
    return ClusterConfig.from_dict(fields) if fields else None


def preset_genes(source: Source) -> int | None:
    """Genes of the published model that a configuration takes its preset from."""
    known = PUBLISHED.get(read_tables(source)["preset"])
    return known.n_genes if known else None


def _parsed(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"No configuration {str(path)!r}: expected a TOML file or one of {', '.join(PRESETS)}.")
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}.") from None


def _hint(name: str) -> str:
    near = difflib.get_close_matches(name, ("preset", *TABLES), n=1)
    if near:
        return f" Did you mean {near[0]!r}?"
    owners = [table for table, config in TABLES.items() if name in {field.name for field in fields(config)}]
    return f" It belongs to [{owners[0]}]." if owners else ""


def _value(text: str) -> Any:
    """A value in TOML; anything else is text, so that quotes can be left out."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


_TABLE_NAMES = ", ".join(f"[{name}]" for name in TABLES)
