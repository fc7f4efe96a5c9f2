"""Conversion between MindSpore's ``.ckpt`` files with the published names and our model folders."""

from pathlib import Path

from cellfm.errors import InputError
from cellfm.genes.vocabulary import Vocabulary
from cellfm.model._checkpoint import read_model, write_model
from cellfm.model._ckpt import write_ckpt
from cellfm.model._published import published_name, read_with_vocabulary
from cellfm.nn.parameters import Weights

SUFFIX = ".ckpt"


def convert(
    source: str | Path,
    target: str | Path,
    *,
    vocabulary: str | Path | Vocabulary | None = None,
    n_heads: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Convert a published or fine-tuned ``.ckpt`` file to a model folder, or a model folder to a ``.ckpt`` file.

    Converting back gives the same bits. Training state is left out.

    Parameters
    ----------
    source
        A ``.ckpt`` file or a model folder, which determines the direction.
    target
        The folder or the ``.ckpt`` file to write.
    vocabulary
        Gene table of a ``.ckpt`` file: a published ``.csv``, a ``vocabulary.tsv``, a model folder or a `Vocabulary`. A
        model folder has its own.
    n_heads
        Number of heads of a ``.ckpt`` file with an unpublished width.
    overwrite
        Replace an existing `target`.

    Returns
    -------
    `target`.

    Raises
    ------
    InputError
        An argument is missing or invalid, or `target` exists or cannot be written.
    CheckpointError
        The source is damaged, or does not fit the vocabulary.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    if not source.exists():
        raise InputError(f"No {source}: expected a {SUFFIX} file or a model folder.")
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists already. Choose another name or overwrite it (overwrite=True, --overwrite).")
    if source.is_dir():
        _to_file(source, target, vocabulary, n_heads)
    else:
        _to_folder(source, target, vocabulary, n_heads, overwrite)
    return target


def write_published(path: Path, weights: Weights) -> None:
    """Write weights as a ``.ckpt`` under their published names, completely or not at all."""
    write_ckpt(path, {published_name(name): array for name, array in weights.items()})


def _to_file(source: Path, target: Path, vocabulary: object, n_heads: int | None) -> None:
    if target.suffix != SUFFIX or target.is_dir():
        raise InputError(f"{source} is a model folder and becomes a {SUFFIX} file; {target} is not the name of one.")
    if vocabulary is not None or n_heads is not None:
        raise InputError(
            f"{source} is a model folder, which contains its vocabulary and number of heads: leave both out."
        )
    _, _, weights, _ = read_model(source)
    write_published(target, weights)


def _to_folder(
    source: Path, target: Path, vocabulary: str | Path | Vocabulary | None, n_heads: int | None, overwrite: bool
) -> None:
    if target.suffix == SUFFIX or target.is_file():
        raise InputError(f"{source} is a file and becomes a model folder; {target} is not the name of one.")
    config, vocab, weights = read_with_vocabulary(source, vocabulary, n_heads)
    write_model(target, config, vocab, weights, name=target.name, overwrite=overwrite)
