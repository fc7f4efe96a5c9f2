"""Fit a transport model: space, map, and comparison with simple baselines on test cells."""

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from cellfm.io.logging import logger
from cellfm.tasks.transport._maps import LatentCells, Map, Method, fit_map, mean_shift
from cellfm.tasks.transport._metrics import evaluate, mmd
from cellfm.tasks.transport._model import carry
from cellfm.tasks.transport._recipe import Recipe
from cellfm.tasks.transport._spaces import Space, SpaceName, fit_space
from cellfm.tasks.transport._split import Parts

SHIFT = "mean shift"
"""The baseline that adds the difference of the means in the latent space."""
MEAN_CHANGE = "mean change"
"""The baseline that adds the mean change of each gene."""


@dataclass(frozen=True)
class Cells:
    """Cells of both conditions."""

    values: np.ndarray
    """(n_cells, n_genes) log-normalised expression of the genes that are predicted."""
    embedding: np.ndarray | None
    """(n_cells, d_model) CellFM embeddings, if the space needs them."""
    groups: np.ndarray | None
    """(n_cells,) str: groups over which shifts are balanced."""

    def x(self, cells: np.ndarray) -> np.ndarray:
        """The input of the space for some cells."""
        return (self.values if self.embedding is None else self.embedding)[cells]


@dataclass(frozen=True)
class Fitted:
    """The result of a fit."""

    space: Space
    map: Map
    history: pd.DataFrame
    evaluation: pd.DataFrame


def row_of(method: str) -> str:
    """The name of a method in tables; the mean shift is the baseline of that name."""
    return SHIFT if method == "mean_shift" else method


def variable_genes(values: sp.csr_matrix, n_genes: int | None) -> np.ndarray:
    """The most variable genes of some cells, by number, in their order; never those that no cell expresses."""
    expressed = np.flatnonzero(np.asarray((values > 0).sum(0)).ravel())
    if n_genes is None or len(expressed) <= n_genes:
        return expressed
    import scanpy as sc  # slow to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = sc.pp.highly_variable_genes(
            AnnData(values[:, expressed]), n_top_genes=n_genes, flavor="seurat", inplace=False
        )
    return expressed[table["highly_variable"].to_numpy()]


def fit_conditions(
    cells: Cells, source: Parts, target: Parts, *, method: Method, space: SpaceName, recipe: Recipe
) -> Fitted:
    """Fit a space and a map in it to the training cells, and evaluate them on the test cells."""
    train = np.concatenate([source.train, target.train])
    held_out = np.isin(train, np.concatenate([source.validation, target.validation]))
    fitted, of_space = fit_space(space, cells.x(train), cells.values[train], held_out, recipe)
    latent = [_latent(cells, parts, fitted) for parts in (source, target)]
    found, of_map = fit_map(method, latent[0], latent[1], recipe)
    stages = [("autoencoder", of_space.rename(columns={"epoch": "step"})), (method, of_map)]
    history = [table.assign(stage=name) for name, table in stages if len(table)]
    evaluation = _judged(cells, source, target, fitted, found, latent, recipe)
    _report(evaluation, row_of(method))
    return Fitted(fitted, found, pd.concat(history, ignore_index=True) if history else pd.DataFrame(), evaluation)


def _latent(cells: Cells, parts: Parts, space: Space) -> LatentCells:
    ordered = np.concatenate([parts.fit, parts.validation])
    groups = None if cells.groups is None else cells.groups[ordered]
    return LatentCells(space.encode(cells.x(parts.fit)), space.encode(cells.x(parts.validation)), groups)


def _judged(
    cells: Cells,
    source: Parts,
    target: Parts,
    space: Space,
    by: Map,
    latent: list[LatentCells],
    recipe: Recipe,
) -> pd.DataFrame:
    """The method and the baselines on the test cells; baselines also learn from validation cells."""
    x, values, observed = cells.x(source.test), cells.values[source.test], cells.values[target.test]
    maps = {
        row_of(by.kind): by,
        "identity": Map("identity", {}),
        SHIFT: Map("mean_shift", {"shift": mean_shift(*latent)}),
    }
    moved = {name: carry(space, by, x, values, recipe) for name, by in maps.items()}
    change = cells.values[target.train].mean(0) - cells.values[source.train].mean(0)
    predicted = {name: by.values for name, by in moved.items()} | {MEAN_CHANGE: np.maximum(values + change, 0)}
    table = evaluate(predicted, observed, values, random_state=recipe.random_state)
    wanted = space.encode(cells.x(target.test))
    table["mmd_latent"] = [
        mmd(moved[name].after, wanted, random_state=recipe.random_state) if name in moved else np.nan
        for name in table["method"]
    ]
    return table


def _report(evaluation: pd.DataFrame, method: str) -> None:
    by = evaluation.set_index("method")
    others = by["r2_top50"].drop(index=method)
    best = str(others.idxmax())
    logger.info(
        "on %d test cells, R2 over the 50 most changed genes is, for %s, %.3f, and for the best baseline (%s) %.3f.",
        by["n_source"][method],
        method,
        by["r2_top50"][method],
        best,
        others[best],
    )
