"""What ``cellfm info`` tells of what was trained: the folder of a run, and fitted objects that were saved."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from cellfm.io.messages import counted

FITTED = {"annotator.json": "Annotator", "predictor.json": "PerturbationPredictor", "transport.json": "TransportModel"}
"""Classes of `cf.tl` that were saved, by the file that is in their folder."""


def run_lines(folder: Path) -> Iterator[str]:
    """A training run: how far it is, on what it trains, and with which settings."""
    from cellfm.config import ModelConfig, TrainConfig
    from cellfm.errors import CheckpointError
    from cellfm.io.safe_read import read_json
    from cellfm.train._run import RunFolder

    run, facts = RunFolder(folder), read_json(folder / "run.json")
    try:
        model, train = ModelConfig(**facts["model"]), TrainConfig(**facts["train"])
        corpus, vocabulary, start = facts["corpus"], facts["vocabulary_sha256"], facts["start"]
    except (LookupError, TypeError) as error:
        raise CheckpointError(
            f"{folder / 'run.json'} lacks entries, or belongs to another version: {error}."
        ) from error
    steps = run.steps()
    state = "finished" if (run.model / "config.json").exists() else "not finished"
    yield f"{folder}: training run, {state}; last checkpoint: {f'step {steps[-1]:,}' if steps else 'none'}"
    shape = f"{counted(model.n_layers, 'layer')}, width {model.d_model}, {counted(model.n_heads, 'head')}"
    yield f"  model: {shape}, {counted(model.n_genes, 'gene')}"
    yield f"  vocabulary: SHA-256 {vocabulary}"
    yield f"  trained on: {corpus['n_training']:,} of {corpus['n_cells']:,} cells of a corpus"
    yield f"  start: {train.start if start is None else f'weights with SHA-256 {start}'}"
    yield f"  steps: {train.steps:,}, {train.batch_size:,} cells each"
    yield f"  size: {_megabytes(folder):,.1f} MB"
    yield f"  written by: {version_of(facts)}"
    yield from _log_lines(folder)
    yield f"  settings: {_row(facts['train'])}"


def _log_lines(folder: Path) -> Iterator[str]:
    from cellfm.errors import InputError
    from cellfm.train._run import read_log

    try:
        log = read_log(folder)
    except InputError:  # no step has been logged yet
        return
    earlier = log.iloc[:-1].dropna(subset="validation_loss")
    for what, rows in {"log": log, "last validation": earlier}.items():
        if len(rows):
            last = rows.iloc[-1].dropna().map("{:g}".format)
            yield f"  {what}: {_row({'step': f'{rows.index[-1]:,}', **last})}"


def fitted_lines(folder: Path, file: str) -> Iterator[str]:
    """A fitted object: its description, the model that it needs, its settings, and its size."""
    from cellfm.io.safe_read import read_json

    fitted = getattr(import_module("cellfm.tl"), FITTED[file]).load(folder)
    facts = read_json(folder / file)
    yield repr(fitted)
    yield f"folder: {folder}, format {facts['format']}, written by {version_of(facts)}, {_megabytes(folder):,.1f} MB"
    if facts["model"]:
        names = {"weights_sha256": "weights", "vocabulary_sha256": "vocabulary"}
        hashes = ", ".join(f"{what} SHA-256 {facts['model'][name]}" for name, what in names.items())
        yield f"model: {facts['model'].get('name') or facts['model']['model']!r}, {hashes}"
    settings = facts.get("recipe") or {"random_state": facts.get("random_state"), "temperature": facts["temperature"]}
    yield f"settings: {_row(settings)}"


def version_of(facts: Mapping[str, Any]) -> str:
    """Files from before 0.2.0 do not say which version wrote them."""
    return f"cellfm {facts.get('cellfm_version', '(version unknown)')}"


def _row(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value not in (None, ""))


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
