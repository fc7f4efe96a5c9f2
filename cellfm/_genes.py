"""Which gene of a vocabulary each row of `var` is, by whatever name it goes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellfm.data import Features, read_features, without_genome
from cellfm.errors import InputError, MissingKeyError
from cellfm.keys import GENE_COLUMNS
from cellfm.vocab import Vocabulary, strip_version

MIN_KNOWN_GENES = 200
"""Fewer known genes say too little of a cell."""

MAX_NAMES_OF_A_GENE = 3
"""An id that more names share does not tell which gene it is."""

HOW = ("symbol", "ensembl", "previous", "alias", "none")
"""How a gene was found."""


@dataclass(frozen=True)
class GeneMatch:
    """Genes of a table in terms of a vocabulary."""

    ids: np.ndarray
    """(n_vars,) int32: id in the vocabulary, 0 where unknown."""
    how: np.ndarray
    """(n_vars,) str: one of `HOW`."""
    names: np.ndarray
    """(n_vars,) str: the names that matched best."""
    column: str
    """Where those names stand: ``"var_names"`` or a column of `var`."""
    n_genes: int
    """Rows of the table that are genes; antibodies, guides, peaks and genes of other species are not."""

    @property
    def n_matched(self) -> int:
        return int((self.ids > 0).sum())

    @property
    def n_distinct(self) -> int:
        """Genes of the vocabulary that are there at least once."""
        return len(np.unique(self.ids[self.ids > 0]))


def find_genes(
    var: pd.DataFrame,
    vocab: Vocabulary,
    *,
    gene_key: str | None = None,
    synonyms: Mapping[str, tuple[str, str]] | None = None,
    features: Features | None = None,
) -> GeneMatch:
    """Match genes by symbol or Ensembl id (with or without version).

    Parameters
    ----------
    gene_key
        Column of `var` to read; by default the one of `var_names` and the usual columns that matches best, and for
        genes without a match there the others.
    synonyms
        Approved symbol and kind (``"previous"``, ``"alias"`` or ``"ensembl"``) of other names. They also bridge to
        genes for which the vocabulary itself uses another name than the approved symbol.
    features
        Which rows are genes, where it is known already; other rows match nothing.

    Raises
    ------
    MissingKeyError
        `gene_key` is not a column of `var`.
    """
    features = read_features(var) if features is None else features
    shown = _name_columns(var, gene_key)
    columns = {column: np.where(features.is_gene, names, "") for column, names in shown.items()}
    found = {column: _match(names, vocab) for column, names in columns.items()}
    for ids, how in found.values():
        _drop_shared(ids, how, columns, vocab)
    # By genes, not rows: many rows may share one id. Stable, so that var_names win a draw.
    order = sorted(columns, key=lambda column: -len(np.unique(found[column][0])))
    best = order[0]
    ids, how = found[best]
    for column in order[1:]:
        other_ids, other_how = found[column]
        # A gene that is there under its own name is not also the one that another column takes for it.
        new = (ids == 0) & (other_ids > 0) & ~np.isin(other_ids, ids)
        ids[new], how[new] = other_ids[new], other_how[new]
    if synonyms:
        bridge = _outdated(vocab, synonyms)
        for column in order:
            _match_synonyms(columns[column], ids, how, vocab, synonyms, bridge)
    return GeneMatch(ids, how, shown[best], best, int(features.is_gene.sum()))


def require_genes(match: GeneMatch, vocab: Vocabulary, least: int, where: str) -> None:
    """Refuse data with too few known genes, with what the names look like and what to do.

    Raises
    ------
    InputError
        Fewer than `least` genes of the vocabulary are there.
    """
    if problem := genes_problem(match, vocab, least, where):
        raise InputError(problem)


def genes_problem(match: GeneMatch, vocab: Vocabulary, least: int, where: str) -> str | None:
    """What is wrong with data with too few known genes; None where nothing is."""
    if match.n_distinct >= least:
        return None
    shown = ", ".join(repr(name) for name in match.names[:5])
    message = (
        f"Only {match.n_distinct:,} of the {match.n_genes:,} genes in {where} are known to the model "
        f"(at least {least:,} are needed). {match.column} holds names like {shown}; expected human gene symbols such "
        "as 'CD3E' or Ensembl ids such as 'ENSG00000198851'. "
    )
    return message + _advice(match, vocab)


def _name_columns(var: pd.DataFrame, gene_key: str | None) -> dict[str, np.ndarray]:
    def text(values: pd.Index | pd.Series) -> np.ndarray:
        return without_genome(values.astype(str).to_numpy(dtype=object))

    if gene_key is not None:
        if gene_key not in var:
            there = ", ".join(map(str, var.columns)) or "none"
            raise MissingKeyError(f"gene_key {gene_key!r} is not a column of var. Columns: {there}.")
        return {gene_key: text(var[gene_key])}
    columns = {"var_names": text(var.index)}
    columns.update({column: text(var[column]) for column in GENE_COLUMNS if column in var})
    return columns


def _match(names: np.ndarray, vocab: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    ids = vocab.find_symbols(names)
    how = np.where(ids > 0, "symbol", "none").astype(object)
    missing = np.flatnonzero(ids == 0)
    ensembl = vocab.find_ensembl(names[missing])
    ids[missing] = ensembl
    how[missing[ensembl > 0]] = "ensembl"
    return ids, how


def _drop_shared(ids: np.ndarray, how: np.ndarray, columns: Mapping[str, np.ndarray], vocab: Vocabulary) -> None:
    """Take an id from rows of different names that share it, in place; those whose name confirms it keep it.

    Id columns that were made by mapping names give one id to genes that have nothing to do with each other, and what
    could not be mapped often has the same id throughout.
    """
    names = columns.get("var_names")
    if names is None:
        return
    rows = np.flatnonzero(how == "ensembl")
    shared = pd.DataFrame({"id": ids[rows], "name": names[rows]})
    n_names = shared.groupby("id")["name"].transform("nunique").to_numpy()
    confirmed = vocab.find_symbols(names[rows]) == ids[rows]
    any_confirmed = pd.Series(confirmed).groupby(shared["id"].to_numpy()).transform("any").to_numpy()
    wrong = (n_names > 1) & ~confirmed & (any_confirmed | (n_names > MAX_NAMES_OF_A_GENE))
    ids[rows[wrong]], how[rows[wrong]] = 0, "none"


def _match_synonyms(
    names: np.ndarray,
    ids: np.ndarray,
    how: np.ndarray,
    vocab: Vocabulary,
    synonyms: Mapping[str, tuple[str, str]],
    bridge: Mapping[str, tuple[int, str]],
) -> None:
    """Fill in genes that go by another name than in the vocabulary, in place.

    An alias of a gene that is there under a better name is not followed: the two are different genes in these data.
    """
    missing = np.flatnonzero(ids == 0)
    # The approved symbol of each name; a name without one may be approved itself.
    approved = [synonyms.get(strip_version(names[i]), (names[i], "")) for i in missing]
    direct = vocab.find_symbols(np.array([symbol for symbol, _ in approved], dtype=object))
    aliases = []
    for i, (symbol, kind), gene_id in zip(missing, approved, direct, strict=True):
        bridged, bridge_kind = bridge.get(symbol, (0, ""))
        target, kind = gene_id or bridged, kind or bridge_kind
        if target and kind == "alias":
            aliases.append((i, target))
        elif target:
            ids[i], how[i] = target, kind
    there = set(ids[ids > 0])
    for i, target in aliases:
        if target not in there:
            ids[i], how[i] = target, "alias"


def _outdated(vocab: Vocabulary, synonyms: Mapping[str, tuple[str, str]]) -> dict[str, tuple[int, str]]:
    """Approved symbols of the genes for which a vocabulary uses a previous symbol or an alias, with their ids."""
    bridge: dict[str, tuple[int, str]] = {}
    for kind in ("alias", "previous"):  # previous symbols overwrite aliases
        found: dict[str, list[int]] = {}
        for gene_id, symbol in enumerate(vocab.symbols, start=1):
            approved, how = synonyms.get(symbol, ("", ""))
            if how == kind:
                found.setdefault(approved, []).append(gene_id)
        bridge.update({approved: (ids[0], kind) for approved, ids in found.items() if len(ids) == 1})
    own = set(vocab.symbols)
    return {approved: target for approved, target in bridge.items() if approved not in own}


def _advice(match: GeneMatch, vocab: Vocabulary) -> str:
    names = match.names
    mouse = sum(str(name).startswith("ENSMUSG") for name in names)
    upper = np.array([str(name).upper() for name in names], dtype=object)
    in_capitals = int((vocab.find_symbols(upper) > 0).sum())
    if mouse or in_capitals > max(match.n_matched, 0):
        return (
            "These look like mouse genes, and the model knows human ones. Map them to their human orthologues first; "
            "for human genes in other capitals, set adata.var_names = adata.var_names.str.upper()."
        )
    if len(names) and sum(str(name).isdigit() for name in names) > len(names) / 2:
        return "These are numbers: pass gene_key= with the column of var that holds the gene names."
    return (
        "Pass gene_key= with the column of var that holds gene names, or map old names with "
        "cf.pp.harmonize_genes(adata, hgnc=...)."
    )
