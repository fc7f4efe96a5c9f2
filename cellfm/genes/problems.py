"""Diagnose problems with gene names, and give advice."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cellfm.genes.columns import VAR_NAMES
from cellfm.genes.vocabulary import Vocabulary

_SPECIES = {
    "ENSMUSG": "mouse",
    "ENSRNOG": "rat",
    "ENSDARG": "zebrafish",
    "ENSSSCG": "pig",
    "ENSMMUG": "rhesus macaque",
    "ENSMFAG": "crab-eating macaque",
    "ENSCJAG": "marmoset",
    "ENSGALG": "chicken",
    "FBgn": "fruit fly",
    "WBGene": "C. elegans",
}
_NUMBER = re.compile(r"-?\d+(?:\.0+)?")
_ENTREZ = 1000
"""Row numbers count up to the number of rows; Entrez ids of human genes go far beyond."""
_OTHER_IDS = (
    (re.compile(r"ENST\d{11}"), "ids of transcripts, not of genes"),
    (re.compile(r"[NX][MR]_\d+"), "RefSeq ids of transcripts"),
    (re.compile(r"\d+_[sxa]?_?at|.*_at"), "ids of microarray probes"),
)
MAX_CONTRADICTIONS = 0.1
"""Share of the genes with two known names, from which on one of the two columns must be wrong."""
_MIN_CONTRADICTIONS = 3
_SHOWN = 5


def species_of(names: np.ndarray, vocab: Vocabulary, n_known: int) -> str | None:
    """The species of the names, if it is not human."""
    text = [str(name) for name in names]
    for start, species in _SPECIES.items():
        if sum(name.startswith(start) for name in text) > n_known:
            return species
    capitals = np.array([name.upper() for name in text], dtype=object)
    lower = np.array([name != big for name, big in zip(text, capitals, strict=True)], bool)
    return "mouse" if int((vocab.find_symbols(capitals) > 0)[lower].sum()) > n_known else None


def advice_on_names(names: np.ndarray, vocab: Vocabulary, n_known: int, columns: Sequence[str] = ()) -> str:
    """Advice if too few genes are known, depending on what the names look like.

    Parameters
    ----------
    columns
        Other columns of `var` that may hold names.
    """
    others = f" Other columns of var: {', '.join(columns[:_SHOWN])}." if columns else ""
    if species := species_of(names, vocab, n_known):
        message = (
            f"These look like {species} genes, and the model knows only human genes. First map them to human "
            "orthologues, and pass gene_key= with the column of var that contains these"
        )
        capitals = "; if they are human genes, set adata.var_names = adata.var_names.str.upper()"
        return message + (capitals if species == "mouse" else "") + "."
    text = [str(name) for name in names]
    numbers = [int(float(name)) for name in text if _NUMBER.fullmatch(name)]
    if text and len(numbers) > len(text) / 2:
        entrez = len(numbers) > 1 and max(numbers) >= max(_ENTREZ, 2 * len(text))
        kind = "numbers, perhaps Entrez ids, which the model does not know" if entrez else "numbers, not names"
        return f"These are {kind}: pass gene_key= with the column of var that contains the gene names.{others}"
    for pattern, kind in _OTHER_IDS:
        if text and sum(bool(pattern.fullmatch(name.split(".")[0])) for name in text) > len(text) / 2:
            return f"These look like {kind}: pass gene_key= with the column of var that contains gene names.{others}"
    return f"Pass gene_key= with the column of var that has gene names; min_known_genes= lowers the minimum.{others}"


@dataclass(frozen=True)
class Contradictions:
    """Genes that two places of a table give the names of two different genes."""

    first: str = ""
    """``"var_names"`` or a column of `var`; its names are taken."""
    second: str = ""
    """The other place."""
    pairs: tuple[tuple[str, str], ...] = ()
    """What stands in the one and in the other, for each such gene."""
    n_both: int = 0
    """Genes that both places know."""

    def __len__(self) -> int:
        return len(self.pairs)

    def __str__(self) -> str:
        shown = ", ".join(f"{first} / {second}" for first, second in self.pairs[:_SHOWN])
        places = f"{_place(self.first)} and {_place(self.second)}"
        if self.first == self.second:
            places = f"Symbols and ids in {_place(self.first)}"
        return (
            f"{places} name different genes in {len(self):,} of the "
            f"{self.n_both:,} rows that both know ({shown}{', ...' if len(self) > _SHOWN else ''})."
        )

    @property
    def problem(self) -> str | None:
        """What is wrong where there are so many that one of the two places must be wrong; None where there are few."""
        if len(self) < _MIN_CONTRADICTIONS or len(self) <= MAX_CONTRADICTIONS * self.n_both:
            return None
        message = f"{self} One of the two is wrong, perhaps shifted by some rows or sorted by itself. Correct it"
        if self.first == self.second:
            return f"{message}."
        return f"{message}, or pass gene_key={self.first!r} or gene_key={self.second!r}, whichever is right."


def _place(column: str) -> str:
    return column if column == VAR_NAMES else f"var[{column!r}]"
