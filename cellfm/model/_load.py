"""`load_model`: a model by name or path."""

from pathlib import Path

from cellfm.engines import PRECISIONS, Backend, Precision, require_engine
from cellfm.errors import InputError, InputTypeError
from cellfm.genes.vocabulary import Vocabulary
from cellfm.model._cellfm import CellFM
from cellfm.model._checkpoint import read_model
from cellfm.model._published import read_with_vocabulary
from cellfm.settings import model_folder, settings


def load_model(
    model: str | Path = "mini",
    vocabulary: str | Path | Vocabulary | None = None,
    *,
    n_heads: int | None = None,
    backend: Backend = "auto",
    precision: Precision = "float32",
) -> CellFM:
    """Load a CellFM model.

    Parameters
    ----------
    model
        ``"mini"`` (included in the package), ``"80M"`` or ``"800M"`` (the published weights, downloaded and converted
        on first use), a model folder, or a MindSpore ``.ckpt`` file with CellFM weights.
    vocabulary
        Gene table of a ``.ckpt`` file: a published ``.csv``, a ``vocabulary.tsv`` or a `Vocabulary`.
    n_heads
        Number of heads of a ``.ckpt`` file with an unpublished width, because its shapes do not determine it.
    backend
        Engine for this model, also when it is trained further: ``"jax"`` (CPUs, NVIDIA GPUs, TPUs), ``"mindspore"``
        (Ascend NPUs, and CPUs; the extra ``cellfm[mindspore]``), or ``"auto"``: that of `cf.settings.backend`, and if
        this is also ``"auto"``, MindSpore if there is an Ascend NPU, otherwise JAX. Both give the same numbers within
        1e-5.
    precision
        ``"float32"``, or ``"bfloat16"``, which rounds the factors of the large products (JAX only): cosines to the
        float32 embedding are above 0.9999, and it was 1.0 to 1.2 times as fast on the CPU where we measured it.

    Raises
    ------
    InputError
        No such model, backend or precision; a ``.ckpt`` without `vocabulary` or `n_heads`.
    CheckpointError
        The file is damaged, or does not fit the vocabulary.
    DownloadError
        Published weights could not be downloaded.
    MissingPackageError
        ``backend="mindspore"`` without MindSpore, which the extra ``cellfm[mindspore]`` installs.

    Examples
    --------
    >>> model = cf.load_model("mini")
    >>> model
    CellFM 'mini': 1 layer, width 256, 2 heads, 9.5 M parameters
    ...
    >>> model = cf.load_model("80M")  # doctest: +SKIP
    """
    require_engine(settings.backend if backend == "auto" else backend)
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(map(repr, PRECISIONS))}, not {precision!r}.")
    if backend == "mindspore" and precision == "bfloat16":
        raise InputError("precision='bfloat16' needs backend='jax' or 'auto'.")
    loaded = _load(model, vocabulary, n_heads)
    loaded.backend, loaded.precision = backend, precision
    return loaded


def _load(model: str | Path, vocabulary: str | Path | Vocabulary | None, n_heads: int | None) -> CellFM:
    if str(model) in ("80M", "800M"):
        from cellfm.model._hub import ensure_published

        return _from_folder(ensure_published(str(model)))
    folder = model_folder(str(model)) if str(model) == "mini" else Path(model).expanduser()
    if folder.is_dir():
        # A training run has its model in a subfolder.
        return _from_folder(folder / "model" if (folder / "run.json").exists() else folder)
    if not folder.exists():
        raise InputError(f"No model {str(model)!r}: expected 'mini', '80M', '800M', a model folder or a .ckpt file.")
    config, vocab, weights = read_with_vocabulary(folder, vocabulary, n_heads)
    return CellFM(config, vocab, weights, name=folder.stem)


def resolve_model(model: str | Path | CellFM) -> CellFM:
    """A model from a name, a path or a model.

    Raises
    ------
    InputTypeError
        It is none of these.

    Examples
    --------
    >>> from cellfm.model import resolve_model
    >>> resolve_model("mini").name
    'mini'
    >>> resolve_model(model) is model
    True
    """
    if isinstance(model, str | Path):
        return load_model(model)
    if not hasattr(model, "vocab"):
        raise InputTypeError(f"Expected a model, its name or its path, found {type(model).__name__}.")
    return model


def _from_folder(folder: Path) -> CellFM:
    config, vocab, weights, facts = read_model(folder)
    return CellFM(config, vocab, weights, name=facts["name"], weights_hash=facts["weights_sha256"])
