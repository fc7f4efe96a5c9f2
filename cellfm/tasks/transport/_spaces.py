"""Latent spaces of transport: each encodes cells to few dimensions and decodes them to expression."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from cellfm.engines import apply
from cellfm.errors import InputError
from cellfm.tasks.transport import _autoencoder
from cellfm.tasks.transport._recipe import Recipe

SpaceName = Literal["cellfm", "pca", "genes", "scgen"]
SPACES: tuple[SpaceName, ...] = ("cellfm", "pca", "genes", "scgen")
MAX_GENES = 2000
"""Maximum number of genes for potentials."""
TINY = 1e-6


@dataclass(frozen=True)
class Space:
    """A fitted space, whose encoded cells are standardised by ``(z - mean) / scale``."""

    kind: SpaceName
    arrays: dict[str, np.ndarray]
    """``mean`` and ``scale`` of the latent cells, and the weights of an autoencoder or the components of PCA."""

    @property
    def reads_embeddings(self) -> bool:
        """Whether the input is the CellFM embedding of cells instead of their expression."""
        return self.kind == "cellfm"

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Latent cells, (n, d) embeddings or expression -> (n, n_latent) float32."""
        a = self.arrays
        z = x
        if self.kind == "cellfm":
            z = apply(_autoencoder.encode, a, (x - a["cls_mean"]) / a["cls_scale"])
        elif self.kind == "scgen":
            from cellfm.tasks.transport._scgen import encode

            z = encode(a, x)
        elif self.kind == "pca":
            z = (x - a["gene_mean"]) @ a["components"].T
        return ((z - a["mean"]) / a["scale"]).astype(np.float32)

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Log-normalised expression, (n, n_latent) -> (n, n_genes) float32; it may be slightly below 0."""
        a = self.arrays
        z = z * a["scale"] + a["mean"]
        if self.kind == "cellfm":
            return apply(_autoencoder.decode, a, z)
        if self.kind == "scgen":
            from cellfm.tasks.transport._scgen import decode

            return decode(a, z).astype(np.float32)
        return (z @ a["components"] + a["gene_mean"] if self.kind == "pca" else z).astype(np.float32)


def fit_space(
    kind: SpaceName, x: np.ndarray, values: np.ndarray, held_out: np.ndarray, recipe: Recipe
) -> tuple[Space, pd.DataFrame]:
    """Fit a space to the training cells; held-out cells only decide when to stop.

    Parameters
    ----------
    x
        (n, d) CellFM embeddings for ``"cellfm"``; not read otherwise.
    values
        (n, n_genes) log-normalised expression.
    held_out
        (n,) bool: validation cells.

    Returns
    -------
    The space, scaled so that its dimensions have a mean square of 1 on average, and the history of the autoencoder.
    """
    history = pd.DataFrame()
    arrays: dict[str, np.ndarray] = {}
    if kind == "cellfm":
        arrays = {"cls_mean": x[~held_out].mean(0), "cls_scale": x[~held_out].std(0) + TINY}
        weights, history = _autoencoder.train_autoencoder(
            (x - arrays["cls_mean"]) / arrays["cls_scale"], values, held_out, recipe
        )
        arrays |= weights
    elif kind == "scgen":
        from cellfm.tasks.transport._scgen import train_vae

        arrays, history = train_vae(values, held_out, recipe)
    elif kind == "pca":
        n = min(recipe.n_components, *(size - 1 for size in values[~held_out].shape))
        pca = PCA(n, svd_solver="randomized", random_state=recipe.random_state).fit(values[~held_out])
        arrays = {"gene_mean": pca.mean_, "components": pca.components_}
    elif values.shape[1] > MAX_GENES:
        raise InputError(
            f"space='genes' takes at most {MAX_GENES:,} genes, found {values.shape[1]:,}. Pass n_genes=1000, or "
            "space='pca'."
        )
    arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    widths = {"pca": len(arrays.get("components", ())), "genes": values.shape[1]}
    n_latent = widths.get(kind, recipe.n_components)
    raw = Space(kind, arrays | {"mean": np.zeros(n_latent, np.float32), "scale": np.ones(1, np.float32)})
    z = raw.encode((x if kind == "cellfm" else values)[~held_out])
    scale = np.sqrt(z.var(0).mean(keepdims=True)) + TINY
    return Space(kind, arrays | {"mean": z.mean(0), "scale": scale.astype(np.float32)}), history
