"""The border to AnnData: picks the table and the matrix, says what is wrong with them, and records runs."""

import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from cellfm._wording import counted, counted_of, with_subject
from cellfm.data import (
    SAMPLE_CELLS,
    Features,
    Values,
    as_text,
    describe,
    read_features,
    recognise,
    rounded,
    sliceable,
    to_csr,
    without_pulling,
)
from cellfm.errors import DataWarning, InputError, MissingKeyError
from cellfm.settings import means_missing, settings

BLOCK_CELLS = 2048
"""Cells read at once: bounds the memory that reading takes."""
_SAMPLE_CELLS = 512


def select(data: AnnData | MuData, modality: str = "rna") -> AnnData:
    """The table to work on: `data` itself, or one modality of a MuData.

    Raises
    ------
    MissingKeyError
        The MuData has no such modality.
    InputError
        Something else was passed, or the table has no cells or no genes.
    """
    adata = pick_table(data, modality)
    if problem := size_problem(adata):
        raise InputError(problem)
    return adata


def pick_table(data: AnnData | MuData, modality: str = "rna") -> AnnData:
    """As `select`, for tables of any size."""
    if isinstance(data, MuData):
        if modality not in data.mod:
            raise MissingKeyError(
                f"No modality {modality!r}; there are: {', '.join(data.mod)}. Pass modality= with one of them."
            )
        data = data.mod[modality]
    if not isinstance(data, AnnData):
        raise InputError(f"Expected an AnnData or MuData object, found {type(data).__name__}.")
    return data


def size_problem(adata: AnnData) -> str | None:
    """What is wrong with a table without cells or genes; None where nothing is."""
    for size, what in ((adata.n_obs, "cells"), (adata.n_vars, "genes")):
        if not size:
            return f"The data hold no {what}: their shape is {adata.n_obs} cells x {adata.n_vars} genes."
    return None


def read_column(adata: AnnData, key: str, argument: str) -> np.ndarray:
    """A column of `obs` as (n_obs,) object: text, and None for a cell whose value is missing (`missing_values`).

    Parameters
    ----------
    argument
        The argument that named the column, for the error.

    Raises
    ------
    MissingKeyError
        There is no such column; the message lists the columns.
    """
    require_column(adata.obs, key, argument)
    values = as_text(adata.obs[key])
    values[missing_values(adata.obs[key])] = None
    return values


def require_column(obs: pd.DataFrame, key: str, argument: str) -> None:
    """Check that a table has one column of this name.

    Raises
    ------
    MissingKeyError
        It has none; the message lists the columns.
    InputError
        It has several.
    """
    if key not in obs:
        raise MissingKeyError(f"{argument}={key!r} is not a column of obs. Columns: {column_names(obs)}.")
    if (n := int((obs.columns == key).sum())) > 1:
        raise InputError(f"{argument}={key!r}: obs has {n} columns of this name. Rename them.")


def read_complete_column(adata: AnnData, key: str, argument: str) -> np.ndarray:
    """As `read_column`, where no value may be missing: (n_obs,) str.

    Raises
    ------
    MissingKeyError
        There is no such column.
    InputError
        Values are missing; the message counts them and says how to leave these cells out.
    """
    values = read_column(adata, key, argument)
    missing = np.array([value is None for value in values])
    if missing.any():
        words = _missing_words(adata.obs[key], missing)
        kept = f"adata.obs[{key!r}].notna()" + (f" & ~adata.obs[{key!r}].isin({words!r})" if words else "")
        raise InputError(
            f"obs[{key!r}] is missing for {missing.sum():,} of {counted(len(values), 'cell')} (the first is cell "
            f"{np.flatnonzero(missing)[0]:,}){_words_for_missing(words)}. Leave these cells out: adata[{kept}].copy()."
        )
    return values.astype(str)


def missing_values(column: pd.Series) -> np.ndarray:
    """(n,) bool: where a column has no value: NaN, None, ``pd.NA``, or text of `cf.settings.missing_labels`."""
    if isinstance(column.dtype, pd.CategoricalDtype):  # a few categories in place of all cells
        missing = _is_missing(column.cat.categories.to_series())
        return np.append(missing, True)[column.cat.codes.to_numpy()]
    return _is_missing(column)


def tell_missing(column: pd.Series, key: str, what: str) -> str:
    """``3 of 48 cells have no label in obs['type']``, and which text was taken for missing."""
    missing = missing_values(column)
    words = _words_for_missing(_missing_words(column, missing))
    n_missing = counted_of(int(missing.sum()), len(missing), "cell", "has", "have")
    return f"{n_missing} no {what} in obs[{key!r}]{words}"


def column_names(table: pd.DataFrame) -> str:
    """The names of the columns of a table, for a message."""
    return ", ".join(map(str, table.columns)) or "none"


def cell_groups(adata: AnnData, groupby: str) -> tuple[list[str], np.ndarray]:
    """Names of the groups of a column of `obs` that have cells, and the group of each cell, -1 for none.

    Raises
    ------
    MissingKeyError
        There is no such column; the message lists the columns.
    InputError
        There are fewer than two groups.

    Warns
    -----
    DataWarning
        Cells have no group.
    """
    require_column(adata.obs, groupby, "groupby")
    missing = missing_values(adata.obs[groupby])
    column = pd.Categorical(adata.obs[groupby].mask(missing)).remove_unused_categories()
    if len(column.categories) < 2:
        groups = "1 group" if len(column.categories) else "no groups"
        raise InputError(f"obs[{groupby!r}] has {groups}; groupby= needs two or more.")
    if missing.any():
        warn(f"{tell_missing(adata.obs[groupby], groupby, 'value')}, and so no group.")
    return [str(name) for name in column.categories], np.asarray(column.codes)


def _is_missing(values: pd.Series) -> np.ndarray:
    texts = pd.Series([str(value) for value in values], dtype=object)
    different = texts.unique()
    words = frozenset(settings.missing_labels)
    if "+" in {text.strip() for text in different}:  # positive and negative
        words -= {"-"}
    missing = [text for text in different if means_missing(text, words)]
    return values.isna().to_numpy() | texts.isin(missing).to_numpy()


def _missing_words(column: pd.Series, missing: np.ndarray) -> list[str]:
    return [word for word in dict.fromkeys(column[missing]) if isinstance(word, str)]


def _words_for_missing(words: list[str]) -> str:
    if not words:
        return ""
    shown = ", ".join(map(repr, words))
    return f" (text that counts as missing: {shown}; cf.settings.missing_labels lists such text)"


def require_in_memory(adata: AnnData, verb: str) -> None:
    """Refuse data on disk, which cannot be changed in place.

    Raises
    ------
    InputError
        The data are backed.
    """
    if adata.isbacked:
        raise InputError(
            f"{verb} changes the data, and these are backed by {adata.filename}: call adata = adata.to_memory() first. "
            "cf.pp.check and cf.tl.embed read backed data as they are."
        )


def copied(data: AnnData | MuData) -> AnnData | MuData:
    """A copy; that of a MuData pulls no columns from its modalities."""
    with without_pulling():
        return data.copy()


def refresh(data: AnnData | MuData) -> None:
    """Let a MuData know that cells or genes of a modality have changed."""
    if isinstance(data, MuData):
        with without_pulling():
            data.update()


@dataclass(frozen=True)
class Matrix:
    """Cells x genes, in memory or on disk, read in blocks of rows; columns that are no genes have no entries."""

    values: Any
    """What holds the numbers: NumPy, SciPy, or a dataset on disk."""
    var: pd.DataFrame
    """The table of genes that belongs to it."""
    name: str
    """How the user finds it: ``adata.X``, ``adata.layers['counts']``, ``adata.raw.X``."""
    as_counts: bool = False
    """Whether rows are rounded to whole numbers and refused where they are no counts; see `require_counts`."""

    @property
    def n_cells(self) -> int:
        return self.values.shape[0]

    @property
    def var_name(self) -> str:
        """How the user finds the table of genes."""
        return "adata.raw.var" if self.name == "adata.raw.X" else "adata.var"

    @property
    def in_memory(self) -> bool:
        return isinstance(self.values, np.ndarray) or sp.issparse(self.values)

    @cached_property
    def features(self) -> Features:
        """Which rows of `var` are human genes."""
        return read_features(self.var)

    @property
    def is_gene(self) -> np.ndarray:
        """(n_vars,) bool: human gene expression, and not antibodies, guides, peaks or genes of another species."""
        return self.features.is_gene

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        """Some cells as CSR, (n_rows, n_vars); only genes have entries.

        Raises
        ------
        InputError
            The matrix is read as counts, and these cells hold none: of data on disk only a sample was seen before.
        """
        block = self._read(start, stop)
        if not self.as_counts:
            return block
        found = describe(block.data)
        if found.kind not in ("counts", "empty"):
            raise InputError(
                f"{self.name} has {found} in cells {start:,} to {stop - 1:,}, where counts were expected; nothing was "
                "written. Correct these cells or remove them, and begin anew."
            )
        return rounded(block) if found.off else block

    def _read(self, start: int, stop: int) -> sp.csr_matrix:
        return self.only_genes(to_csr(self.values[start:stop], self.name))

    def only_genes(self, block: sp.csr_matrix) -> sp.csr_matrix:
        """A block of rows without the entries of columns that are no genes; the shape stays."""
        if self.features.all_genes:
            return block
        kept = self.is_gene[block.indices]
        indptr = np.concatenate(([0], np.cumsum(kept)))[block.indptr]
        return sp.csr_matrix((block.data[kept], block.indices[kept], indptr), shape=block.shape)

    def blocks(self, n_cells: int = BLOCK_CELLS, of: slice | None = None) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Cells in order, in blocks: all, or those of a span."""
        first, end = (0, self.n_cells) if of is None else (of.start, of.stop)
        for start in range(first, end, n_cells):
            stop = min(start + n_cells, end)
            yield slice(start, stop), self.rows(start, stop)

    def describe(self) -> Values:
        """What the values are, of all of them in memory and of a sample on disk; the form is told by some cells."""
        if self.in_memory:
            values = self.values if self.features.all_genes else self.values[:, self.is_gene]
            return self.recognise(describe(values.data if sp.issparse(values) else values))
        starts = sorted({0, self.n_cells // 2, max(0, self.n_cells - _SAMPLE_CELLS)})
        parts = [self._read(start, min(start + _SAMPLE_CELLS, self.n_cells)).data for start in starts]
        return self.recognise(describe(np.concatenate(parts)))

    def recognise(self, found: Values) -> Values:
        """What was done to counts, seen in some cells."""
        return recognise(found, self.sample(), int(self.is_gene.sum()))

    def sample(self) -> sp.csr_matrix:
        """Cells from the start, the middle and the end."""
        n = SAMPLE_CELLS // 3
        starts = sorted({0, max(0, (self.n_cells - n) // 2), max(0, self.n_cells - n)})
        bounds = [*starts[1:], self.n_cells]
        parts = [self._read(start, min(start + n, bound)) for start, bound in zip(starts, bounds, strict=True)]
        return sp.vstack(parts, format="csr")

    def n_expressing(self, columns: np.ndarray) -> np.ndarray:
        """(n_columns,) int: cells with a value above 0, of all cells in memory and of a sample on disk."""
        values = self.values if self.in_memory else self.sample()
        return np.asarray((values[:, columns] > 0).sum(0)).ravel()


def read_matrix(adata: AnnData, layer: str | None = None) -> Matrix:
    """The matrix that a user names: X, a layer, or ``"raw"``.

    Raises
    ------
    MissingKeyError
        There is no such layer, or X is empty; the message lists those there are.
    InputError
        The matrix holds no numbers: text, dates, complex or masked entries.
    """
    if layer is None or layer == "X":
        x = _x_of(adata)
        if x is None:
            raise MissingKeyError(f"adata.X is empty. Pass layer= with another matrix; there are: {_layers(adata)}.")
        return Matrix(sliceable(x, "adata.X"), adata.var, "adata.X")
    if layer in adata.layers:
        name = f"adata.layers[{layer!r}]"
        return Matrix(sliceable(adata.layers[layer], name), adata.var, name)
    if layer == "raw" and adata.raw is not None:
        return Matrix(sliceable(adata.raw.X, "adata.raw.X"), adata.raw.var, "adata.raw.X")
    raise MissingKeyError(f"No layer {layer!r}; there are: {_layers(adata)}.")


def matrices(adata: AnnData) -> list[str]:
    """The matrices that `read_matrix` can read, by the name it takes."""
    x, raw = ["X"] if _x_of(adata) is not None else [], ["raw"] if adata.raw is not None else []
    return [*x, *(name for name in adata.layers if name is not None), *raw]  # anndata 0.13 lists X as None


def gene_rows(adata: AnnData) -> AnnData:
    """The table without rows of `var` that are no human genes, which is said: itself, or a view of it."""
    features = read_features(adata.var)
    if features.note and features.is_gene.any():
        warn(features.note)
    return adata if features.all_genes or not features.is_gene.any() else adata[:, features.is_gene]


def require_features(matrix: Matrix) -> None:
    """Refuse a table whose rows are antibodies, guides, peaks or genes of other species only.

    Raises
    ------
    InputError
        No row is human gene expression, or several genomes are there and none is chosen.
    """
    if problem := matrix.features.problem(matrix.var_name):
        raise InputError(problem)


def warn(message: str) -> None:
    """Tell the user that a result may be poorer than expected; points at the line that called into cellfm."""
    frame, depth = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("cellfm."):
        frame, depth = frame.f_back, depth + 1
    warnings.warn(with_subject(message), DataWarning, stacklevel=depth)


def _x_of(adata: AnnData) -> Any:
    """X, or None where there is none: in a file on disk, too, of which anndata itself raises."""
    try:
        return adata.X
    except KeyError:
        return None


def _layers(adata: AnnData) -> str:
    return ", ".join(map(repr, matrices(adata))) or "none"
