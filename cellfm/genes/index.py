"""Looking names of genes up in a vocabulary, by other spellings, and by previous symbols and aliases."""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cellfm.genes.hgnc import Synonyms
from cellfm.genes.names import is_plain, spelling, symbols_of_date, without_quotes, without_suffix
from cellfm.genes.vocabulary import Vocabulary, strip_version
from cellfm.settings import means_missing

_REMEMBERED = 1 << 17
"""Names that are looked up once in a process; tables of one annotation share most of them."""


class SpellingIndex:
    """Genes of a vocabulary by what R leaves of their names.

    A vocabulary that was collected from data holds some genes twice, such as ``HLA-DRA`` and ``HLA.DRA``, or ``TBCE``
    and ``TBCE-1``: the second is a twin that stands for nothing else. Of names with one spelling, that with an Ensembl
    id is the gene, else that with the fewest dots, and orf in small letters; a name that was made unique is a twin
    where it has no id of its own.
    """

    def __init__(self, vocab: Vocabulary) -> None:
        symbols, ids = vocab.symbols, vocab.genes["ensembl_id"].to_numpy()
        groups: dict[str, list[int]] = {}
        ends = []
        for gene_id, symbol in enumerate(symbols, start=1):
            if is_plain(symbol):
                continue
            spelt = spelling(symbol)
            if spelt != symbol or "." in symbol:
                groups.setdefault(spelt, []).append(gene_id)
                if symbol[-1].isdigit() and not ids[gene_id - 1]:
                    ends.append(gene_id)
        self._true = list(range(len(vocab) + 1))  # a list is quicker to ask one by one
        self._vocab = vocab
        self._ids: dict[str, int] = {}
        for spelt, group in groups.items():
            if (same := vocab.id_of(spelt)) and same not in group:
                group.append(same)
            best = min(group, key=lambda i: (not ids[i - 1], symbols[i - 1].count("."), "ORF" in symbols[i - 1]))
            self._ids[spelt] = best
            for other in group:
                if not ids[other - 1]:
                    self._true[other] = best
        for gene_id in ends:
            if (base := without_suffix(symbols[gene_id - 1])) and (true := self.find(spelling(base))):
                self._true[gene_id] = true
        self.true_id = np.array(self._true, np.int32)
        """(n_genes + 1,) the gene that each entry of the vocabulary stands for: itself, but for twins."""
        for twin in np.flatnonzero(self.true_id != np.arange(len(vocab) + 1)):
            spelt = spelling(symbols[twin - 1])
            if self._ids.get(spelt) == twin:
                del self._ids[spelt]

    def find(self, spelt: str) -> int:
        """The gene with that spelling, 0 for none."""
        return self._ids.get(spelt, 0) or self._true[self._vocab.id_of(spelt)]


class Candidate(NamedTuple):
    """What a name that is no symbol of a vocabulary may stand for; 0 is no gene."""

    restored: int = 0
    """The gene whose symbol R or Seurat writes so."""
    other: tuple[int, str] = (0, "none")
    """The gene that goes by it, and the kind: ``"previous"``, ``"alias"`` or ``"ensembl"``."""
    made_unique: tuple[int, str] = (0, "none")
    """The gene without the ending that made the name unique; the kind is ``"alias"`` where the rest is one."""
    dated: tuple[int, ...] = ()
    """Genes whose symbols a spreadsheet takes for this date."""
    ambiguous: bool = False
    """Whether several genes go by it."""


NOTHING = Candidate()


class OtherNames:
    """Genes of a vocabulary by previous symbols and aliases, in any spelling, and by spellings made unique.

    Other names also bridge to genes for which the vocabulary itself uses another name than the approved symbol.
    """

    def __init__(self, vocab: Vocabulary, synonyms: Synonyms) -> None:
        self._vocab = vocab
        self._names, self._ambiguous = synonyms.names, synonyms.ambiguous
        self._spellings = _spellings(synonyms.names)
        self._index = spelling_index(vocab)
        self._bridge = _bridge(vocab, synonyms)
        self.resolve = lru_cache(maxsize=_REMEMBERED)(self._resolve)

    def _resolve(self, name: str) -> Candidate:
        """Everything that a name may stand for."""
        if name.startswith("ENSG"):
            other = self._other(strip_version(name), "")
            return Candidate(other=other) if other[0] else NOTHING
        if means_missing(name):
            return NOTHING
        plain = is_plain(name)
        if not plain and (bare := without_quotes(name)) != name:
            target = self._index.find(bare) or int(self._vocab.find_ensembl(np.array([bare], object))[0])
            return Candidate(target) if target else self.resolve(bare)
        spelt = "" if plain else spelling(name)
        restored = 0 if plain else self._index.find(spelt)
        other, made_unique, dated = self._other(name, spelt), self._made_unique(name), self._dated(name)
        ambiguous = len(dated) > 1 or name in self._ambiguous
        if restored or other[0] or made_unique[0] or dated or ambiguous:
            return Candidate(restored, other, made_unique, dated, ambiguous)
        return NOTHING

    def _other(self, name: str, spelt: str) -> tuple[int, str]:
        names = self._names
        symbol, kind = names.get(name) or names.get(spelt) or names.get(self._spellings.get(spelt, ""), (name, ""))
        if kind and (target := self._index.find(symbol)):
            return target, kind
        if not self._bridge:
            return 0, "none"
        target, bridged_kind = self._bridge.get(symbol, (0, "none"))
        return target, kind if kind and target else bridged_kind

    def _made_unique(self, name: str) -> tuple[int, str]:
        base = without_suffix(name)
        if base is None:
            return 0, "none"
        spelt = base if is_plain(base) else spelling(base)
        if target := self._index.find(base) or self._index.find(spelt):
            return target, "restored"
        target, kind = self._other(base, spelt)
        return target, kind if kind in ("alias", "none") else "restored"

    def _dated(self, name: str) -> tuple[int, ...]:
        symbols = symbols_of_date(name)
        return tuple({self._index.find(symbol) or self._other(symbol, symbol)[0] for symbol in symbols} - {0})


@lru_cache(maxsize=8)
def spelling_index(vocab: Vocabulary) -> SpellingIndex:
    """The index of a vocabulary, made once."""
    return SpellingIndex(vocab)


@lru_cache(maxsize=8)
def other_names(vocab: Vocabulary, synonyms: Synonyms) -> OtherNames:
    """The other names of the genes of a vocabulary, made once."""
    return OtherNames(vocab, synonyms)


def _spellings(names: Iterable[str]) -> dict[str, str]:
    """Spelling to the one name that R would write so, for names that it would change."""
    found: dict[str, str] = {}
    for name in names:
        if not is_plain(name):
            spelt = spelling(name)
            if spelt != name:
                found[spelt] = "" if spelt in found else name  # that of several names tells nothing
    return found


def _bridge(vocab: Vocabulary, synonyms: Synonyms) -> dict[str, tuple[int, str]]:
    """Approved symbols of the genes for which a vocabulary uses a previous symbol or an alias, with their ids."""
    bridge: dict[str, tuple[int, str]] = {}
    outdated = [(i, *synonyms.names[s]) for i, s in enumerate(vocab.symbols, start=1) if s in synonyms.names]
    for kind in ("alias", "previous"):  # previous symbols overwrite aliases
        found: dict[str, list[int]] = {}
        for gene_id, approved, how in outdated:
            if how == kind:
                found.setdefault(approved, []).append(gene_id)
        bridge.update({approved: (ids[0], kind) for approved, ids in found.items() if len(ids) == 1})
    return {approved: target for approved, target in bridge.items() if not vocab.id_of(approved)}
