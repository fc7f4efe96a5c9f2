"""Our own model format: a folder of ``config.json``, ``vocabulary.tsv`` and ``model.safetensors``."""

import dataclasses
import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save, save_file

from cellfm.config import ModelConfig
from cellfm.errors import CheckpointError, InputError
from cellfm.genes.vocabulary import FILE_NAME as VOCABULARY_FILE
from cellfm.genes.vocabulary import Vocabulary
from cellfm.io.atomic_file import check_folder, whole_folder
from cellfm.io.safe_read import file_sha256, parse_arrays, read_file, read_json
from cellfm.model._published import check_parameter
from cellfm.nn.parameters import Weights, parameter_shapes

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = 1


def write_model(
    folder: Path,
    config: ModelConfig,
    vocab: Vocabulary,
    weights: Weights,
    *,
    name: str,
    overwrite: bool = False,
    half: bool = False,
) -> str:
    """Write a model folder, completely or not at all.

    Parameters
    ----------
    half
        Store the gene table in float16: half the size, for models that ship in a package.

    Returns
    -------
    The SHA-256 of the weights file.
    """
    stored = {key: np.ascontiguousarray(value) for key, value in weights.items()}
    if half:
        stored["embed.gene"] = stored["embed.gene"].astype(np.float16)
    with whole_folder(folder, overwrite=overwrite) as partial:
        try:
            save_file(stored, partial / WEIGHTS_FILE)
        except SafetensorError as error:  # a full disk, say
            raise OSError(str(error)) from error
        (partial / WEIGHTS_FILE).chmod(0o644)  # safetensors lets only the owner read it
        vocab.save(partial)
        weights_hash = file_sha256(partial / WEIGHTS_FILE)
        facts = {
            "format": FORMAT,
            "cellfm_version": version("cellfm"),
            "name": name,
            "vocabulary_sha256": vocab.hash,
            "weights_sha256": weights_hash,
            "model": dataclasses.asdict(config),
        }
        (partial / CONFIG_FILE).write_text(json.dumps(facts, indent=1) + "\n")
    return weights_hash


def check_model_folder(folder: str | Path, *, overwrite: bool) -> None:
    """Refuse, before any long work, a folder to which a model cannot be written.

    Raises
    ------
    InputError
        The folder exists and `overwrite` is false, it exists and is not a model folder, or it cannot be written.
    """
    check_folder(folder, overwrite=overwrite, kind="a model folder", file=CONFIG_FILE)


def weights_sha256(weights: Weights) -> str:
    """The SHA-256 that the weights file of a model folder would have."""
    return hashlib.sha256(save({key: np.ascontiguousarray(value) for key, value in weights.items()})).hexdigest()


def read_model(folder: Path) -> tuple[ModelConfig, Vocabulary, Weights, dict[str, Any]]:
    """Read a model folder: configuration, vocabulary, weights (float32) and the facts beside them.

    Raises
    ------
    CheckpointError
        A file is missing or damaged, or the parts do not belong together.
    """
    facts = read_facts(folder)
    config = ModelConfig.from_dict(facts["model"])
    vocab = Vocabulary.load(folder / VOCABULARY_FILE)
    if vocab.hash != facts["vocabulary_sha256"] or len(vocab) != config.n_genes:
        raise CheckpointError(f"{folder}: the vocabulary is not the one that the weights were trained with.")
    path = folder / WEIGHTS_FILE
    content = read_file(path)
    if hashlib.sha256(content).hexdigest() != facts["weights_sha256"]:
        raise CheckpointError(f"{path} is damaged or incomplete: its checksum is not the one in {CONFIG_FILE}.")
    tensors = parse_arrays(content, str(path))
    del content
    shapes = parameter_shapes(config)
    if tensors.keys() != shapes.keys():
        odd = sorted(tensors.keys() ^ shapes.keys())[:5]
        raise CheckpointError(f"{path}: missing or unexpected parameters: {', '.join(odd)}.")
    weights = {name: check_parameter(tensors.pop(name), name, shape, path) for name, shape in shapes.items()}
    return config, vocab, weights, facts


def read_facts(folder: Path) -> dict[str, Any]:
    """The content of ``config.json``."""
    path = folder / CONFIG_FILE
    if not path.exists():
        raise InputError(f"{folder} is not a model folder: it contains no {CONFIG_FILE}.")
    facts = read_json(path)
    needed = {"format", "name", "vocabulary_sha256", "weights_sha256", "model"}
    if not isinstance(facts, dict) or not needed <= facts.keys() or not isinstance(facts["model"], dict):
        raise CheckpointError(f"{path} lacks entries; expected {', '.join(sorted(needed))}.")
    if facts["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {facts['format']!r}; this version of cellfm reads format {FORMAT}.")
    if odd := [name for name in ("name", "vocabulary_sha256", "weights_sha256") if not isinstance(facts[name], str)]:
        raise CheckpointError(f"{path} is damaged: {', '.join(odd)} must be text.")
    return facts
