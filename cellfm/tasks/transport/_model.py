"""`TransportModel`: a fitted map of cells from one condition to another."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cellfm.io.messages import counted
from cellfm.model import CellFM
from cellfm.tasks.transport._maps import Map
from cellfm.tasks.transport._recipe import Recipe
from cellfm.tasks.transport._spaces import Space


@dataclass(frozen=True)
class Moved:
    """Cells before and after."""

    before: np.ndarray
    """(n, d) float32: in the latent space."""
    after: np.ndarray
    """(n, d) float32."""
    values: np.ndarray
    """(n, n_genes) float32: predicted log-normalised expression."""


@dataclass(frozen=True)
class TransportModel:
    """Predicts how cells of one condition would look in another; fitted by `cf.tl.fit_transport`.

    Examples
    --------
    >>> fitted.save("transport")
    >>> cf.tl.TransportModel.load("transport").method
    'mean_shift'
    """

    condition_key: str
    source: str
    """The source condition."""
    target: str
    """The target condition."""
    holdout: tuple[str, ...] | None
    """Column and group of the test cells; None for a random part."""
    genes: tuple[str, ...] = field(repr=False)
    """Genes that are predicted, as in `var_names`."""
    space: Space = field(repr=False)
    map: Map = field(repr=False)
    recipe: Recipe = field(repr=False)
    history: pd.DataFrame = field(repr=False)
    """A row for each epoch of the autoencoder and each validation of the map."""
    evaluation: pd.DataFrame = field(repr=False)
    """A row for the method and each baseline: similarity of predicted and observed test cells."""
    model: CellFM | None = field(default=None, repr=False)
    """The model that embeds cells, in the ``cellfm`` space."""

    def __repr__(self) -> str:
        by = "" if self.model is None else f" of {self.model.name!r}"
        tested = "a random part of the cells" if self.holdout is None else " ".join(map(repr, self.holdout))
        return (
            f"TransportModel: {self.source!r} to {self.target!r} of obs[{self.condition_key!r}]\n"
            f"  method {self.method!r} in the space {self.space.kind!r}{by}, {counted(len(self.genes), 'gene')}\n"
            f"  tested on {tested}"
        )

    @property
    def method(self) -> str:
        """Method of the map."""
        return self.map.kind

    def facts(self) -> dict[str, str | int]:
        """The facts for the record of a run."""
        found = {
            "method": self.method,
            "space": self.space.kind,
            "source": self.source,
            "target": self.target,
            **({} if self.model is None else model_facts(self.model)),
        }
        return {**found, "random_state": self.recipe.random_state}

    def carry(self, x: np.ndarray, values: np.ndarray) -> Moved:
        """Map cells to the target condition.

        Parameters
        ----------
        x
            (n, d) CellFM embeddings in the ``cellfm`` space, `values` in the others.
        values
            (n, n_genes) log-normalised expression.
        """
        return carry(self.space, self.map, x, values, self.recipe)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Save a folder with ``transport.json`` and ``transport.safetensors``; the CellFM model is only named in it.

        Raises
        ------
        InputError
            The folder exists and `overwrite` is false, or cannot be written.
        """
        from cellfm.tasks.transport._files import write_transport

        write_transport(self, Path(path), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path, model: str | Path | CellFM | None = None) -> "TransportModel":
        """Load a folder from `save`.

        Parameters
        ----------
        model
            The CellFM model of the fit, if its name does not identify it.

        Raises
        ------
        CheckpointError
            A file is missing or damaged, or the model is a different one.
        """
        from cellfm.tasks.transport._files import read_transport

        return read_transport(Path(path), model)


def carry(space: Space, by: Map, x: np.ndarray, values: np.ndarray, recipe: Recipe) -> Moved:
    """`TransportModel.carry` as a function; negative expression is set to 0."""
    before = space.encode(x)
    after = by(before)
    if by.kind == "identity":
        return Moved(before, after, values)
    whole = space.decode(after)
    predicted = whole if recipe.decode == "whole" else values + whole - space.decode(before)
    return Moved(before, after, np.maximum(predicted, 0).astype(np.float32))


def model_facts(model: CellFM) -> dict[str, str]:
    """Name and hashes of a model."""
    return {"model": model.name, "weights_sha256": model.weights_hash, "vocabulary_sha256": model.vocab.hash}
