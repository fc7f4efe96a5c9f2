"""The variational autoencoder of scGen (Lotfollahi 2019) over genes: trained by pertpy, used without it."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from types import ModuleType

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfm.errors import MissingPackageError
from cellfm.tasks.transport._recipe import Recipe

MAX_EPOCHS = 100
PATIENCE = 25
"""Epochs without improvement on the validation cells after which training stops."""
BATCH = 32
NEEDED = ("pertpy", "scvi", "flax", "lightning.pytorch")
_LOGGERS = ("lightning.pytorch", "lightning.fabric")
_SLOPE = 0.01
_EPSILON = 1e-3  # of batch normalisation
_HISTORY = {"loss": "elbo_train", "validation": "elbo_validation"}  # as scvi-tools names them


def require_pertpy() -> tuple[ModuleType, ModuleType]:
    """The packages pertpy and scvi, with the other requirements of scGen.

    Raises
    ------
    MissingPackageError
        One of them is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in NEEDED:
                import_module(name)
            pertpy, scvi = import_module("pertpy"), import_module("scvi")
            _ = pertpy.tl.Scgen
    except (ImportError, AttributeError) as error:
        raise MissingPackageError(
            f"scGen needs pertpy, scvi-tools, flax and Lightning ({error}). Install them with pip install "
            "'cellfm[scgen]', or use method='latent_shift' with space='cellfm' or 'pca', which needs no extra "
            "package: a shift balanced over groups as in scGen, in another latent space."
        ) from None
    return pertpy, scvi


def encode(arrays: dict[str, np.ndarray], values: np.ndarray) -> np.ndarray:
    """Latent means, (n, n_genes) -> (n, n_latent)."""
    hidden = _hidden(arrays, "encoder", values)
    return hidden @ arrays["encoder.mean.weight"] + arrays["encoder.mean.bias"]


def decode(arrays: dict[str, np.ndarray], z: np.ndarray) -> np.ndarray:
    """Expression, (n, n_latent) -> (n, n_genes)."""
    hidden = _hidden(arrays, "decoder", z)
    return hidden @ arrays["decoder.mean.weight"] + arrays["decoder.mean.bias"]


def _hidden(arrays: dict[str, np.ndarray], part: str, x: np.ndarray) -> np.ndarray:
    n_layers = sum(name.startswith(f"{part}.") and name.endswith(".weight") for name in arrays) - 1
    for i in range(n_layers):
        layer = f"{part}.{i}"
        x = x @ arrays[f"{layer}.weight"] + arrays[f"{layer}.bias"]
        if f"{layer}.norm_mean" in arrays:
            mean, variance, gain, offset = (arrays[f"{layer}.norm_{name}"] for name in ("mean", "var", "scale", "bias"))
            x = (x - mean) / np.sqrt(variance + _EPSILON) * gain + offset
        x = np.where(x > 0, x, _SLOPE * x)
    return x


def train_vae(values: np.ndarray, held_out: np.ndarray, recipe: Recipe) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Train pertpy's scGen with its own network and loss.

    Parameters
    ----------
    values
        (n, n_genes) log-normalised expression.
    held_out
        (n,) bool: validation cells, which decide when to stop.

    Returns
    -------
    The weights that `encode` and `decode` read, and a row for each epoch.
    """
    pertpy, scvi = require_pertpy()
    with _quiet(scvi, recipe.random_state):
        cells = AnnData(np.asarray(values, np.float32))
        pertpy.tl.Scgen.setup_anndata(cells)
        model = pertpy.tl.Scgen(cells, n_latent=recipe.n_components)
        model.train(
            max_epochs=MAX_EPOCHS,
            batch_size=BATCH,
            early_stopping=True,
            early_stopping_patience=PATIENCE,
            accelerator="cpu",
            enable_progress_bar=False,
            datasplitter_kwargs={"external_indexing": [np.flatnonzero(~held_out), np.flatnonzero(held_out)]},
        )
        state = model.module.train_state
    history = pd.DataFrame(
        {"epoch": range(len(model.history["elbo_validation"]))}
        | {name: model.history[theirs].to_numpy(float).ravel() for name, theirs in _HISTORY.items()}
    )
    return _arrays(state.params, state.state["batch_stats"]), history


def _arrays(params: dict, statistics: dict) -> dict[str, np.ndarray]:
    """Flax's trees as flat names; of the encoder's two outputs the mean, not the variance."""
    arrays = {}
    for part, layers in params.items():
        n_dense = sum(name.startswith("Dense") for name in layers)
        n_hidden = n_dense - (2 if part == "encoder" else 1)
        for i in range(n_hidden + 1):
            layer = f"{part}.{'mean' if i == n_hidden else i}"
            arrays[f"{layer}.weight"] = layers[f"Dense_{i}"]["kernel"]
            arrays[f"{layer}.bias"] = layers[f"Dense_{i}"]["bias"]
            if f"BatchNorm_{i}" in layers:
                for name, array in (layers[f"BatchNorm_{i}"] | statistics[part][f"BatchNorm_{i}"]).items():
                    arrays[f"{layer}.norm_{name}"] = array
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


@contextmanager
def _quiet(scvi: ModuleType, seed: int) -> Iterator[None]:
    """Seed the generators of scvi-tools, and restore the user's generators and settings afterwards."""
    from lightning.pytorch.utilities.seed import isolate_rng

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = scvi.settings.seed, scvi.settings.verbosity, [each.level for each in loggers]
    try:
        with isolate_rng(include_cuda=False), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            scvi.settings.verbosity = "ERROR"
            for each in loggers:
                each.setLevel("ERROR")
            scvi.settings.seed = seed
            yield
    finally:
        scvi.settings.seed, scvi.settings.verbosity = before[:2]
        for each, level in zip(loggers, before[2], strict=True):
            each.setLevel(level)
