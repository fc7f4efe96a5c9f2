"""Read published checkpoints: parameter names, training state to skip, and the shape of the network."""

import re
from pathlib import Path

import numpy as np

from cellfm.config import PUBLISHED, ModelConfig
from cellfm.errors import CheckpointError, InputError
from cellfm.genes.vocabulary import Vocabulary
from cellfm.io.logging import logger
from cellfm.io.messages import counted
from cellfm.model._ckpt import read_ckpt
from cellfm.nn.parameters import Weights, parameter_shapes

# Optimizer state and other training-only entries, which are skipped.
_TRAINING_ONLY = re.compile(
    r"(moment[12]|ST_enc)\.|(ST_emb|global_step|learning_rate|beta[12]_power|scale_sense"
    r"|current_iterator_step|last_overflow_iterator_step)$"
)
# A prefix of the names of the backbone in fine-tuned files.
_PREFIX = re.compile(r"^(extractor|network)\.")
_LETTER = {"query": "q", "key": "k", "value": "v", "gate": "u", "output": "o"}
_SUBLAYER = {"attention": "attn", "glu": "ffn"}
_FIXED = {
    "embed.gene": "gene_emb",
    "embed.cls": "cls_token",
    "embed.zero": "zero_emb",
    "embed.hidden": "value_enc.mask_emb",
    "embed.value.skip": "value_enc.value_enc.a",
    "embed.value.expand.weight": "value_enc.value_enc.w1.weight",
    "embed.value.mix.weight": "value_enc.value_enc.w3.weight",
    "embed.value.table.weight": "value_enc.value_enc.table.weight",
    "gene_decoder.inner.weight": "value_dec.w1.weight",
    "gene_decoder.output.weight": "value_dec.w2.weight",
    "cell_decoder.inner.weight": "cellwise_dec.map.weight",
}


def published_name(name: str) -> str:
    """The published name of one of our parameters."""
    if name in _FIXED:
        return _FIXED[name]
    _, _, i, part, *rest = name.split(".")
    layer = f"encoder.{i}"
    if part.startswith("norm"):
        return f"{layer}.post_{part}.{rest[0]}"
    sublayer, letter = f"{layer}.{_SUBLAYER[part]}", _LETTER[rest[0]]
    if rest[1] in ("a", "b"):
        return f"{sublayer}.lora_{letter}.{rest[1].upper()}.weight"
    return f"{sublayer}.{letter}_proj.weight"


def is_training_state(name: str) -> bool:
    """Whether an entry of a published file is training state."""
    return _TRAINING_ONLY.match(_PREFIX.sub("", name)) is not None


def read_with_vocabulary(
    path: Path, vocabulary: str | Path | Vocabulary | None, n_heads: int | None = None
) -> tuple[ModelConfig, Vocabulary, Weights]:
    """Read a ``.ckpt`` and the table of the genes that belongs to it.

    Raises
    ------
    InputError
        There is no such table, or `n_heads` is needed.
    CheckpointError
        As `read_published`.
    """
    if vocabulary is None:
        raise InputError(
            f"{path.name} contains weights without gene names: give the table that belongs to them (vocabulary=, "
            "--vocabulary), which is expand_gene_info.csv for the 80M checkpoint, gene_info.csv for the 800M one."
        )
    vocab = vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary.load(vocabulary)
    config, weights = read_published(path, vocab, n_heads)
    return config, vocab, weights


def read_published(path: Path, vocab: Vocabulary, n_heads: int | None = None) -> tuple[ModelConfig, Weights]:
    """Read a published or fine-tuned ``.ckpt``; width, layers, adapters and vocabulary size come from its shapes.

    Raises
    ------
    CheckpointError
        The file is damaged, does not fit the vocabulary, or has missing, surplus or misshapen parameters.
    InputError
        `n_heads` is needed, because no published model has this width.
    """
    tensors, passed_over = read_ckpt(path, lambda name: not is_training_state(name))
    if passed_over:
        logger.info("%s: skipped %d entries of training state.", path.name, len(passed_over))
    tensors = _without_prefix(tensors, path)
    config = _infer_config(tensors, vocab, n_heads, path)
    expected = {published_name(name): (name, shape) for name, shape in parameter_shapes(config).items()}
    weights = {}
    for theirs, (ours, shape) in expected.items():
        if theirs not in tensors:
            raise CheckpointError(f"{path}: the parameter {theirs!r} of shape {shape} is missing.")
        weights[ours] = check_parameter(tensors.pop(theirs), theirs, shape, path)
    if tensors:
        surplus = ", ".join(sorted(tensors)[:5])
        raise CheckpointError(
            f"{path}: {counted(len(tensors), 'parameter does', 'parameters do')} not belong to CellFM: {surplus}."
        )
    return config, weights


def check_parameter(tensor: np.ndarray, name: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """A parameter as float32, if it has the expected shape and is a number."""
    if tensor.shape != shape:
        raise CheckpointError(f"{path}: {name!r} has shape {tensor.shape}, expected {shape}.")
    if tensor.dtype.kind != "f":
        raise CheckpointError(f"{path}: {name!r} has the type {tensor.dtype}, expected floating-point numbers.")
    return tensor.astype(np.float32, copy=False)


def _without_prefix(tensors: Weights, path: Path) -> Weights:
    stripped: Weights = {}
    for name, tensor in tensors.items():
        short = _PREFIX.sub("", name)
        if short in stripped:
            raise CheckpointError(f"{path}: {short!r} occurs twice in the file, with and without a prefix.")
        stripped[short] = tensor
    return stripped


def _infer_config(tensors: Weights, vocab: Vocabulary, n_heads: int | None, path: Path) -> ModelConfig:
    for name in ("gene_emb", "value_enc.value_enc.w3.weight"):
        if name not in tensors or tensors[name].ndim != 2:
            raise CheckpointError(f"{path}: no matrix {name!r}; this is not a CellFM checkpoint.")
    rows, d_model = tensors["gene_emb"].shape
    layers = [int(match.group(1)) for name in tensors if (match := re.match(r"encoder\.(\d{1,4})\.", name))]
    if not layers:
        raise CheckpointError(f"{path}: no layers 'encoder.0. ...'; this is not a CellFM checkpoint.")
    adapter = tensors.get("encoder.0.attn.lora_q.A.weight")
    if adapter is not None and adapter.ndim != 2:
        raise CheckpointError(f"{path}: 'encoder.0.attn.lora_q.A.weight' has shape {adapter.shape}, no matrix.")
    if n_heads is None:
        n_heads = next((known.n_heads for known in PUBLISHED.values() if known.d_model == d_model), None)
    if n_heads is None:
        raise InputError(
            f"{path} has the width {d_model}, which no published model has, and the number of heads cannot be "
            "read from a checkpoint. Pass n_heads=."
        )
    config = ModelConfig(
        n_layers=max(layers) + 1,
        d_model=d_model,
        n_heads=n_heads,
        n_genes=len(vocab),
        d_value=tensors["value_enc.value_enc.w3.weight"].shape[0],
        lora_rank=0 if adapter is None else adapter.shape[0],
    )
    if config.n_gene_rows != rows:
        raise CheckpointError(
            f"{path} has a gene table of {rows:,} rows, but a vocabulary of {len(vocab):,} genes needs "
            f"{config.n_gene_rows:,}: this is the vocabulary of another model. The 80M checkpoint belongs with "
            "expand_gene_info.csv, the 800M checkpoint with gene_info.csv."
        )
    return config
