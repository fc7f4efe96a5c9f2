"""Biotypes of genes: from the model's vocabulary, a column, a table or a mapping."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfm.errors import InputError, MissingKeyError
from cellfm.genes.text import as_text, column_names
from cellfm.genes.vocabulary import Vocabulary, strip_version

Biotypes = str | Path | Mapping[str, str] | pd.Series | None
LNCRNA = {
    "lncrna",
    "lincrna",
    "antisense",
    "sense_intronic",
    "sense_overlapping",
    "processed_transcript",
    "3prime_overlapping_ncrna",
    "bidirectional_promoter_lncrna",
    "macro_lncrna",
    "non_coding",
    "rna, long non-coding",
}
"""What GENCODE, Ensembl and HGNC have called long non-coding RNAs, in small letters."""
_NAMES = ("symbol", "gene_name", "gene_symbol", "ensembl_id", "gene_id", "ensembl_gene_id")
_TYPES = ("biotype", "gene_biotype", "gene_type", "locus_type")


def is_lncrna(adata: AnnData, ids: np.ndarray, vocab: Vocabulary, biotypes: Biotypes) -> np.ndarray:
    """(n_vars,) bool: genes that are long non-coding RNAs.

    Parameters
    ----------
    ids
        (n_vars,) id of each gene in the vocabulary, 0 where unknown.
    biotypes
        None for those of the vocabulary; a column of `var`; the path of a table (.csv or .tsv, GENCODE's or HGNC's
        columns); or a mapping from symbol or Ensembl id.

    Raises
    ------
    InputError
        Nothing says what the genes are, or none is a lncRNA.
    MissingKeyError
        No such column, and no such file.
    """
    if biotypes is None:
        kinds = np.concatenate(([""], vocab.genes["biotype"].to_numpy()))[ids]
        where = "the model's vocabulary"
    elif isinstance(biotypes, str) and biotypes in adata.var:
        kinds, where = as_text(adata.var[biotypes]), f"var[{biotypes!r}]"
    else:
        known, where = _mapping(adata, biotypes)
        symbols = np.concatenate(([""], vocab.symbols))[ids]
        ensembl = np.concatenate(([""], vocab.genes["ensembl_id"].to_numpy()))[ids]
        kinds = np.array(
            [
                next((known[name] for name in names if name in known), "")
                for names in zip(adata.var_names, symbols, ensembl, strict=True)
            ],
            object,
        )
    chosen = np.array([str(kind).lower() in LNCRNA for kind in kinds]) & (ids > 0)
    if not chosen.any():
        seen = ", ".join(sorted({str(kind) for kind in kinds if kind})[:6]) or "nothing"
        raise InputError(
            f"No gene that the model knows is a long non-coding RNA by {where}, which has: {seen}. Pass biotypes= with "
            "a column of var, a table, or a mapping from gene to biotype."
        )
    return chosen


def _mapping(adata: AnnData, biotypes: str | Path | Mapping[str, str] | pd.Series) -> tuple[dict[str, str], str]:
    if isinstance(biotypes, Mapping | pd.Series):
        return {strip_version(str(name)): str(kind) for name, kind in biotypes.items()}, "the mapping"
    path = Path(biotypes).expanduser()
    if not path.is_file():
        raise MissingKeyError(
            f"{str(biotypes)!r} is neither a column of var nor a file. Columns: {column_names(adata.var)}."
        )
    table = pd.read_csv(path, sep="\t" if path.suffix in (".tsv", ".txt") else ",", dtype=str, keep_default_na=False)
    names = [column for column in _NAMES if column in table]
    types = [column for column in _TYPES if column in table]
    if not names or not types:
        raise InputError(
            f"{path.name} has the columns {', '.join(map(str, table))}; expected one of {', '.join(_NAMES)} and one of "
            f"{', '.join(_TYPES)}."
        )
    known: dict[str, str] = {}
    for column in reversed(names):
        known |= dict(zip(table[column].map(strip_version), table[types[0]], strict=True))
    return known, path.name
