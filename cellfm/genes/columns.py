"""Find the gene names of a table: `var_names`, the usual columns, or another column that clearly holds them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellfm.errors import MissingKeyError
from cellfm.genes.features import without_genome
from cellfm.genes.names import split_name
from cellfm.genes.text import as_text, column_names
from cellfm.genes.vocabulary import Vocabulary
from cellfm.keys import GENE_COLUMNS
from cellfm.settings import means_missing

VAR_NAMES = "var_names"
_MIN_KNOWN = 0.5
"""Share of known genes among the entries of a column of names."""
_MIN_DIFFERENT = 0.9
"""Share of distinct genes among these; a column with the nearest gene of each peak has fewer."""
_LENGTH_OF_ID, _LONGEST_ID = len("ENSG00000204287"), len("ENSG00000204287.13")


@dataclass(frozen=True)
class Names:
    """Names of genes in one place."""

    column: str
    """Location: ``"var_names"`` or a column of `var`."""
    whole: np.ndarray
    """(n_vars,) str: the names."""
    read: np.ndarray
    """(n_vars,) str: symbol or Ensembl id in it, ``""`` where there is none."""


def read_names(var: pd.DataFrame, gene_key: str | None, is_gene: np.ndarray) -> list[Names]:
    """Names in `var_names` and the usual columns, or in the column that the user names.

    If a word holds both symbol and Ensembl id, both are read and count as two places. Rows that are not genes have no
    names.

    Raises
    ------
    MissingKeyError
        `gene_key` is not a column of `var`.
    """
    if gene_key is None:
        columns = [VAR_NAMES, *usual_columns(var)]
    elif gene_key in var or gene_key == VAR_NAMES:
        columns = [gene_key]
    else:
        raise MissingKeyError(f"gene_key={gene_key!r} is not a column of var. Columns: {column_names(var)}.")
    places: list[Names] = []
    for column in columns:
        for names in _read(var, column, is_gene):
            if not any(np.array_equal(names.read, place.read) for place in places):
                places.append(names)
    return places


def other_column(var: pd.DataFrame, vocab: Vocabulary, n_known: int) -> str | None:
    """The only other column of `var` that clearly holds gene names; None if there is none, or if several disagree.

    Parameters
    ----------
    n_known
        Number of known genes in the usual places; the column must have twice as many.
    """
    found: dict[str, np.ndarray] = {}
    for column in candidate_columns(var):
        names = next(_read(var, column, np.ones(len(var), bool))).read
        ids = vocab.find_symbols(names)
        ids = np.where(ids > 0, ids, vocab.find_ensembl(names))
        n_rows, n_there = int((ids > 0).sum()), int(sum(not means_missing(name) for name in names))
        n_genes = len(np.unique(ids[ids > 0]))
        if n_genes >= max(1, 2 * n_known, _MIN_KNOWN * n_there) and n_genes >= _MIN_DIFFERENT * n_rows:
            found[column] = ids
    if not found:
        return None
    best = max(found, key=lambda column: int((found[column] > 0).sum()))
    for ids in found.values():
        both = (ids > 0) & (found[best] > 0)
        if (ids != found[best])[both].mean() > 1 - _MIN_DIFFERENT:
            return None
    return best


def usual_columns(var: pd.DataFrame) -> list[str]:
    """Columns of `var` with one of the usual names, in the order of `GENE_COLUMNS`."""
    places = {_plain(name): place for place, name in enumerate(GENE_COLUMNS)}
    columns = [column for column in var.columns if isinstance(column, str) and _plain(column) in places]
    return sorted(columns, key=lambda column: places[_plain(column)])


def candidate_columns(var: pd.DataFrame) -> Iterator[str]:
    """Columns of text with unusual names."""
    usual = usual_columns(var)
    for column in var.columns:
        kind = var[column].dtype
        if column not in usual and isinstance(column, str) and not pd.api.types.is_numeric_dtype(kind):
            yield column


def _read(var: pd.DataFrame, column: str, is_gene: np.ndarray) -> Iterator[Names]:
    whole = _text(var.index if column == VAR_NAMES and VAR_NAMES not in var else var[column])
    names = whole if is_gene.all() else np.where(is_gene, whole, "")
    text = "\n".join(names)
    joined_somewhere = "ENSG" in text or "|" in text or "__" in text  # much faster than name by name
    rows = [i for i, name in enumerate(names) if _may_be_joined(name)] if joined_somewhere else []
    if not rows:
        yield Names(column, whole, names)
        return
    read, joined = names.copy(), np.full(len(names), "", object)
    for i in rows:
        symbol, ensembl = split_name(names[i])
        read[i], joined[i] = symbol or ensembl, ensembl if symbol else ""
    yield Names(column, whole, read)
    if joined.any():
        yield Names(column, whole, joined)


def _may_be_joined(name: str) -> bool:
    """Whether a name holds more than a symbol or an id; quick, for it is asked of every gene."""
    if name.startswith("ENSG") and len(name) <= _LONGEST_ID and name[_LENGTH_OF_ID:][:1] in ("", "."):
        return False
    return "ENSG" in name or "|" in name or "__" in name


def _text(values: pd.Index | pd.Series) -> np.ndarray:
    return without_genome(as_text(values))


def _plain(column: str) -> str:
    return re.sub(r"[\W_]+", "", column).lower()
