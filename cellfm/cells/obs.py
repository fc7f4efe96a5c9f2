"""Columns of `obs`: labels, batches and groups of cells, and which of their values are missing."""

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfm.errors import InputError, MissingKeyError
from cellfm.genes.text import as_text, column_names
from cellfm.io.messages import counted, counted_of, warn
from cellfm.settings import means_missing, settings


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
    """Check that a table has exactly one column with this name.

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
    """As `read_column`, but no value may be missing: (n_obs,) str.

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
    """``3 of 48 cells have no label in obs['type']``, and the text that counted as missing."""
    missing = missing_values(column)
    words = _words_for_missing(_missing_words(column, missing))
    n_missing = counted_of(int(missing.sum()), len(missing), "cell", "has", "have")
    return f"{n_missing} no {what} in obs[{key!r}]{words}"


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
        warn(f"{tell_missing(adata.obs[groupby], groupby, 'value')}, and these cells have no group.")
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
