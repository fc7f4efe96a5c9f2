"""Match each row of `var` to a gene of a vocabulary, by any of its names."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cellfm.errors import InputError
from cellfm.genes.columns import VAR_NAMES, Names, candidate_columns, other_column, read_names
from cellfm.genes.features import Features, read_features
from cellfm.genes.hgnc import Synonyms
from cellfm.genes.index import NOTHING, other_names, spelling_index
from cellfm.genes.names import split_name, was_made_unique
from cellfm.genes.problems import Contradictions, advice_on_names, species_of
from cellfm.genes.vocabulary import Vocabulary

MIN_KNOWN_GENES = 200
"""Minimum number of known genes to describe a cell."""

FEW_CONTRADICTIONS = 0.03
"""Share of the genes with two known names that may disagree, since names of clones change hands over the years: up to
0.02 in 57 public sets."""

MAX_NAMES_OF_A_GENE = 3
"""An id that more names share does not identify a gene."""

HOW = ("symbol", "ensembl", "restored", "previous", "alias", "none")
"""Ways to match a gene; ``"restored"`` is a symbol that R, a spreadsheet or making names unique had changed."""


@dataclass(frozen=True)
class GeneMatch:
    """Genes of a table in terms of a vocabulary."""

    ids: np.ndarray
    """(n_vars,) int32: id in the vocabulary, 0 where unknown."""
    how: np.ndarray
    """(n_vars,) str: one of `HOW`."""
    names: np.ndarray
    """(n_vars,) str: the names that matched best."""
    matched_by: np.ndarray
    """(n_vars,) str: the name by which each gene was matched."""
    column: str
    """Location of these names: ``"var_names"`` or a column of `var`."""
    n_genes: int
    """Rows of the table that are genes; antibodies, guides, peaks and genes of other species are not."""
    ambiguous: np.ndarray
    """(n_vars,) bool: the name is shared by several genes, and none was chosen."""
    contradictions: Contradictions = field(default_factory=Contradictions)
    """Rows to which two places give the names of different genes."""
    guessed: bool = False
    """Whether `column` is unusual and was not named by the user."""
    others: tuple[str, ...] = ()
    """Columns of `var` that were not read."""

    @property
    def n_matched(self) -> int:
        return int((self.ids > 0).sum())

    @property
    def n_distinct(self) -> int:
        """Number of distinct genes of the vocabulary in the table."""
        return len(np.unique(self.ids[self.ids > 0]))

    @property
    def guess(self) -> str | None:
        """A message if the names are in an unusual column; None otherwise."""
        if not self.guessed:
            return None
        return (
            f"Gene names are taken from var[{self.column!r}], because the usual places contain none; gene_key= "
            "chooses another column."
        )

    def repeated(self) -> np.ndarray:
        """(n_vars,) bool: an earlier row is the same gene."""
        return (self.ids > 0) & pd.Series(self.ids).duplicated().to_numpy()


def find_genes(
    var: pd.DataFrame,
    vocab: Vocabulary,
    *,
    gene_key: str | None = None,
    synonyms: Synonyms | None = None,
    features: Features | None = None,
) -> GeneMatch:
    """Match genes by symbol or Ensembl id (with or without version, or both in one word), gene by gene.

    The place that matches the most genes has priority: `var_names`, one of the usual columns of `var`, or, if these
    match less than half of the genes, another column that clearly holds names. The other places are used for genes
    without a match there. Remaining names are matched as changed by R, Seurat and spreadsheets, as previous symbols, as
    aliases, and without the number that made them unique, in this order.

    Parameters
    ----------
    gene_key
        The only column of `var` to read; ``"var_names"`` reads only the index.
    synonyms
        Previous symbols, aliases and Ensembl ids of approved symbols. They also bridge to genes for which the
        vocabulary itself uses another name than the approved symbol.
    features
        The rows that are genes, if already known; other rows are not matched.

    Raises
    ------
    MissingKeyError
        `gene_key` is not a column of `var`.
    """
    synonyms = Synonyms() if synonyms is None else synonyms
    features = read_features(var) if features is None else features
    n_genes = int(features.is_gene.sum())
    places = read_names(var, gene_key, features.is_gene)
    matches = _match_all(places, vocab)
    guessed = None
    if gene_key is None and max(_n_genes(ids) for ids, _ in matches) < n_genes / 2:
        guessed = _guess(var[features.is_gene], places, matches, vocab)
        if guessed is not None:
            places += read_names(var, guessed, features.is_gene)
            matches = _match_all(places, vocab)
    # By genes, not rows: many rows may share one id. Stable, so that var_names win a draw.
    order = sorted(range(len(places)), key=lambda place: -_n_genes(matches[place][0]))
    best = order[0]
    ids, how = (found.copy() for found in matches[best])
    matched_by = places[best].read.copy()
    contradictions = Contradictions()
    for place in order[1:]:
        other_ids, other_how = matches[place]
        # A gene that is there under its own name is not also the one that another column takes for it.
        new = (ids == 0) & (other_ids > 0) & ~np.isin(other_ids, ids)
        found = _contradict(places[best], matches[best], places[place], matches[place], vocab, synonyms, (ids, how))
        contradictions = max(contradictions, found, key=lambda pairs: (len(pairs), pairs.n_both))
        ids[new], how[new], matched_by[new] = other_ids[new], other_how[new], places[place].read[new]
    places = [places[place] for place in order]
    ambiguous = _match_other_names(places, ids, how, matched_by, vocab, synonyms)
    others = tuple(candidate_columns(var)) if gene_key is None else ()
    column = places[0].column
    whole = places[0].whole
    return GeneMatch(ids, how, whole, matched_by, column, n_genes, ambiguous, contradictions, column == guessed, others)


def require_genes(match: GeneMatch, vocab: Vocabulary, least: int, where: str) -> None:
    """Refuse data with too few known genes, or contradicting names, with what the names look like and what to do.

    Raises
    ------
    InputError
        Fewer than `least` genes of the vocabulary are in the table, or two columns name different genes.
    """
    if problem := genes_problem(match, vocab, least, where):
        raise InputError(problem)


def genes_problem(match: GeneMatch, vocab: Vocabulary, least: int, where: str) -> str | None:
    """The error for data with too few known genes or contradicting names; None if there is no problem."""
    if match.n_distinct >= least:
        return match.contradictions.problem
    shown = ", ".join(repr(name) for name in match.names[:5])
    message = (
        f"Only {match.n_distinct:,} of the {match.n_genes:,} genes in {where} are known to the model "
        f"(at least {least:,} are needed). {match.column} contains names like {shown}; expected human gene symbols "
        "such as 'CD3E' or Ensembl ids such as 'ENSG00000198851'. "
    )
    if match.n_matched > match.n_genes / 2:  # the names are right, and there are few of them
        return f"{message}For a small panel pass min_known_genes={match.n_distinct} or a smaller number."
    return message + advice_on_names(match.names, vocab, match.n_matched, match.others)


def _n_genes(ids: np.ndarray) -> int:
    return len(np.unique(ids[ids > 0]))


def _match_all(places: Sequence[Names], vocab: Vocabulary) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids of each place, and how they were matched: by symbol and Ensembl id alone."""
    matches = [_match(place.read, vocab) for place in places]
    if places[0].column == VAR_NAMES:
        for ids, how in matches:
            _drop_shared(ids, how, places[0].read, vocab)
    return matches


def _match(names: np.ndarray, vocab: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    ids = vocab.find_symbols(names)
    ids[spelling_index(vocab).true_id[ids] != ids] = 0  # a twin of another gene is matched by its spelling
    how = np.full(len(ids), "none", dtype=object)
    how[ids > 0] = "symbol"
    missing = np.flatnonzero(ids == 0)
    ensembl = vocab.find_ensembl(names[missing])
    ids[missing] = ensembl
    how[missing[ensembl > 0]] = "ensembl"
    return ids, how


def _drop_shared(ids: np.ndarray, how: np.ndarray, names: np.ndarray, vocab: Vocabulary) -> None:
    """Take an id from rows of different names that share it, in place; those whose name confirms it keep it.

    Id columns that were made by mapping names give one id to genes that have nothing to do with each other, and what
    could not be mapped often has the same id throughout.
    """
    rows = np.flatnonzero(how == "ensembl")
    if not pd.Series(ids[rows]).duplicated().any():
        return
    shared = pd.DataFrame({"id": ids[rows], "name": names[rows]})
    n_names = shared.groupby("id")["name"].transform("nunique").to_numpy()
    confirmed = vocab.find_symbols(names[rows]) == ids[rows]
    any_confirmed = pd.Series(confirmed).groupby(shared["id"].to_numpy()).transform("any").to_numpy()
    wrong = (n_names > 1) & ~confirmed & (any_confirmed | (n_names > MAX_NAMES_OF_A_GENE))
    ids[rows[wrong]], how[rows[wrong]] = 0, "none"


def _guess(
    var: pd.DataFrame, places: Sequence[Names], matches: Sequence[tuple[np.ndarray, np.ndarray]], vocab: Vocabulary
) -> str | None:
    """Another column that clearly holds the names; none is taken for the names of another species."""
    n_known = max(_n_genes(ids) for ids, _ in matches)
    column = other_column(var, vocab, n_known)
    return None if column is None or species_of(places[0].read, vocab, n_known) else column


def _contradict(
    first: Names,
    first_match: tuple[np.ndarray, np.ndarray],
    second: Names,
    second_match: tuple[np.ndarray, np.ndarray],
    vocab: Vocabulary,
    synonyms: Synonyms,
    chosen: tuple[np.ndarray, np.ndarray],
) -> Contradictions:
    """Rows where two places know different genes.

    A symbol whose Ensembl id the vocabulary does not know contradicts none, nor does an id that is its own symbol
    there: a symbol that has another id tells which gene it is, and is taken in `chosen`, in place. Where the symbol is
    a former name of the gene that the id stands for, the two agree: the id tells which gene it is, and is taken in
    `chosen`, unless that gene is there under its own name.
    """
    (first_ids, first_how), (second_ids, second_how) = first_match, second_match
    both = (first_ids > 0) & (second_ids > 0)
    has_id = vocab.genes["ensembl_id"].to_numpy() != ""
    named = set(first_ids)
    pairs = []
    for i in np.flatnonzero(both & (first_ids != second_ids)):
        first_nameless, second_nameless = (_is_id(vocab.symbols[ids[i] - 1]) for ids in (first_ids, second_ids))
        if first_nameless or second_nameless:
            if not second_nameless and has_id[second_ids[i] - 1] and second_ids[i] not in named:
                chosen[0][i], chosen[1][i] = second_ids[i], second_how[i]
            continue
        second_is_id = second_how[i] == "ensembl" or _is_id(second.read[i])
        by_name, by_id = (first, second_ids[i]) if second_is_id else (second, first_ids[i])
        one_is_id = second_is_id or first_how[i] == "ensembl" or _is_id(first.read[i])
        if one_is_id and synonyms.stands_for(by_name.read[i], vocab.symbols[by_id - 1]):
            if by_id not in named:
                chosen[0][i], chosen[1][i] = by_id, "ensembl"
        elif not one_is_id or (has_id[first_ids[i] - 1] and has_id[second_ids[i] - 1]):
            pairs.append((str(first.read[i]), str(second.read[i])))
    return Contradictions(first.column, second.column, tuple(pairs), int(both.sum()))


def _is_id(name: str) -> bool:
    return bool(split_name(str(name))[1])


def _match_other_names(
    places: Sequence[Names],
    ids: np.ndarray,
    how: np.ndarray,
    matched_by: np.ndarray,
    vocab: Vocabulary,
    synonyms: Synonyms,
) -> np.ndarray:
    """Fill in genes that go by another name than in the vocabulary, in place.

    An alias of a gene that is there under a better name is not followed: the two are different genes in these data.

    Returns
    -------
    (n_vars,) bool: the name stands for several genes.
    """
    resolve = other_names(vocab, synonyms).resolve
    rows = np.flatnonzero(ids == 0)
    candidates = [
        (i, name, found)
        for place in places
        for i, name in zip(rows, place.read[rows], strict=True)
        if (found := resolve(name)) is not NOTHING
    ]

    def take(i: int, gene_id: int, kind: str, name: str) -> None:
        if gene_id and not ids[i]:
            ids[i], how[i], matched_by[i] = gene_id, kind, name

    for i, name, found in candidates:
        take(i, found.restored, "restored", name)
    names = frozenset().union(*(place.read for place in places))
    numbered = [candidate for candidate in candidates if was_made_unique(candidate[1], names)]
    for step in ("other", "made_unique"):
        chosen = candidates if step == "other" else numbered
        proposed = [(i, *getattr(found, step), name, found.made_unique[0]) for i, name, found in chosen]
        for i, gene_id, kind, name, _ in proposed:
            if kind != "alias":
                take(i, gene_id, kind, name)
        named = set(ids[ids > 0])
        for i, gene_id, kind, name, base in proposed:
            # INS-1 is an alias of another gene, but beside INS it is that gene, made unique.
            if kind == "alias" and gene_id not in named and base not in named:
                take(i, gene_id, kind, name)
    ambiguous = np.zeros(len(ids), bool)
    for i, name, found in candidates:
        if len(found.dated) == 1:
            take(i, found.dated[0], "restored", name)
        ambiguous[i] |= found.ambiguous
    return ambiguous & (ids == 0)
