"""Check all inputs of shards before anything is written: counts, genes, species, columns."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cellfm.cells.counts import counts_problem, counts_remarks
from cellfm.cells.fingerprint import count_fingerprints
from cellfm.cells.inspection import count_known
from cellfm.cells.matrix import BLOCK_CELLS, Matrix
from cellfm.cells.obs import missing_values
from cellfm.cells.values import Values
from cellfm.corpus._shard_files import MISSING
from cellfm.corpus._sources import Source, Table, open_table
from cellfm.errors import InputError, MissingKeyError
from cellfm.genes.hgnc import Synonyms
from cellfm.genes.match import MIN_KNOWN_GENES, GeneMatch, find_genes, genes_problem
from cellfm.genes.panel import panel_limit
from cellfm.genes.vocabulary import Vocabulary
from cellfm.io.logging import logger
from cellfm.io.messages import warn

COLUMNS = ("cell_type", "batch", "donor", "tissue", "platform", "assay", "condition", "disease")
"""Columns of `obs` that are kept if they exist."""
SOURCE = "source"
"""Column with the input of each cell."""
_MAX_CATEGORIES = 100_000
_SAMPLE_CELLS = 256
_SPREAD_SAMPLES, _SPREAD_CELLS = 64, 16
_TOO_MANY_POOR = 0.5  # share of cells with few genes that is too much unless it is asked for
_MIXED = 0.1  # share of mouse genes above which data count as mixed
_MOUSE = re.compile(r"^(ENSMUSG\d{11}|(mm9|mm10|mm39|GRCm3[89])[-_.])", re.IGNORECASE)


@dataclass(frozen=True)
class Surveyed:
    """One readable input."""

    source: Source
    n_cells: int
    match: GeneMatch
    values: dict[str, list[str]]
    """Column to the values that occur in it."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Identifies the input when a run continues."""


def survey(
    sources: Sequence[Source],
    vocab: Vocabulary,
    synonyms: Synonyms,
    *,
    layer: str | None,
    gene_key: str | None,
    min_genes: int,
    may_drop_most: bool,
    columns: Sequence[str] | None,
    modality: str,
    genome: str | None = None,
) -> tuple[list[Surveyed], dict[str, list[str]]]:
    """Check every input.

    Returns
    -------
    The inputs, and the columns to keep with all their values.
    """
    wanted = COLUMNS if columns is None else tuple(dict.fromkeys(columns))
    if columns is not None and SOURCE in wanted:
        raise InputError(f"The column {SOURCE!r} is always written, with the name of the input; leave it out.")
    found: list[Surveyed] = []
    problems: list[str] = []
    present: dict[str, None] = {}
    for source in sources:
        try:
            with open_table(source, layer=layer, modality=modality, genome=genome) as table:
                present |= dict.fromkeys(map(str, table.obs.columns))
                match = find_genes(
                    table.matrix.var, vocab, gene_key=gene_key, synonyms=synonyms, features=table.matrix.features
                )
                counts = table.matrix.describe()
                if problem := _problem(table, counts, match, vocab, min_genes, may_drop_most=may_drop_most):
                    problems.append(f"{source.name}: {problem}")
                    continue
                _warn(source, table, counts, match)
                found.append(_surveyed(source, table, match, wanted))
        except InputError as error:
            problems.append(f"{source.name}: {error}")
    if problems:
        head = f"{len(problems)} of {len(sources)} inputs cannot be used; nothing was written.\n" if sources[1:] else ""
        raise InputError(head + "\n".join(problems))
    if columns is not None and (missing := [column for column in wanted if column not in present]):
        raise MissingKeyError(
            f"No input has the column {missing[0]!r}; available: {', '.join(present) or 'none'}. Pass columns= "
            "with those to keep."
        )
    kept = _categories(found, wanted)
    for one in found:
        n_unknown = one.match.n_genes - one.match.n_matched
        logger.info(
            "%s: %d cells, %d of %d genes known, %d left out.",
            one.source.name, one.n_cells, one.match.n_matched, one.match.n_genes, n_unknown,
        )  # fmt: skip
    return found, kept | {SOURCE: [source.name for source in sources]}


def _problem(
    table: Table, counts: Values, match: GeneMatch, vocab: Vocabulary, min_genes: int, *, may_drop_most: bool
) -> str | None:
    """Why an input cannot be used; None where it can."""
    matrix = table.matrix
    return (
        matrix.features.problem(matrix.var_name)
        or counts_problem(counts, matrix.name, table.adata)
        or _mixed_problem(match, vocab, matrix.features.is_gene)
        or genes_problem(match, vocab, min(MIN_KNOWN_GENES, min_genes), "var")
        or (None if may_drop_most else _few_problem(matrix, match, min_genes))
    )


def _warn(source: Source, table: Table, counts: Values, match: GeneMatch) -> None:
    """Warn about anything unusual in an input that can be used."""
    remarks = counts_remarks(counts, table.matrix.name)
    for remark in (*remarks, match.guess, table.matrix.features.note):
        if remark:
            warn(f"{source.name}: {remark}")


def _surveyed(source: Source, table: Table, match: GeneMatch, wanted: Sequence[str]) -> Surveyed:
    values = {column: column_values(table.obs, column) for column in wanted if column in table.obs}
    facts = {
        "name": source.name,
        "n_cells": table.matrix.n_cells,
        "n_genes": match.n_genes,
        "n_known_genes": match.n_distinct,
        "matrix": table.matrix.name,
        "sha256": _fingerprint(table.matrix, match.ids, table.obs, list(values)),
    }
    return Surveyed(source, table.matrix.n_cells, match, values, facts)


def _categories(found: Sequence[Surveyed], wanted: Sequence[str]) -> dict[str, list[str]]:
    """Those of the wanted columns that some input has, with their values in all inputs."""
    kept = {
        column: sorted({value for one in found for value in one.values.get(column, ())})
        for column in wanted
        if any(column in one.values for one in found)
    }
    for column, categories in kept.items():
        if len(categories) > _MAX_CATEGORIES:
            raise InputError(
                f"The column {column!r} has {len(categories):,} different values, too many for groups of cells "
                f"(at most {_MAX_CATEGORIES:,}). Leave it out of columns=."
            )
    return kept


def column_values(obs: pd.DataFrame, column: str) -> list[str]:
    """The different values of a column, as text, sorted."""
    return sorted(_text(obs[column]).dropna().unique())


def column_codes(obs: pd.DataFrame, column: str, categories: Sequence[str]) -> np.ndarray:
    """(n_cells,) int32: place of each value in the categories, -1 where missing or without such a column."""
    if column not in obs:
        return np.full(len(obs), MISSING, np.int32)
    codes = {category: code for code, category in enumerate(categories)}
    return np.array([codes.get(value, MISSING) for value in _text(obs[column])], np.int32)


def _text(values: pd.Series) -> pd.Series:
    return values.astype(object).mask(missing_values(values), None).map(str, na_action="ignore")


def _mixed_problem(match: GeneMatch, vocab: Vocabulary, is_gene: np.ndarray) -> str | None:
    """The error for human and mouse genes in one table without genomes; None for one species."""
    unknown = [str(name) for name in match.names[(match.ids == 0) & is_gene]]
    as_human = vocab.find_symbols(np.array([name.upper() for name in unknown], dtype=object)) > 0
    n_mouse = sum(
        bool(_MOUSE.match(name)) or (human and name == name.capitalize())
        for name, human in zip(unknown, as_human, strict=True)
    )
    if match.n_distinct < MIN_KNOWN_GENES or n_mouse < _MIXED * match.n_genes:
        return None
    return (
        f"{n_mouse:,} of {len(match.ids):,} genes look like mouse genes and {match.n_distinct:,} are human: these seem "
        "to be mixed species. Keep the human cells and genes only."
    )


def _few_problem(matrix: Matrix, match: GeneMatch, min_genes: int) -> str | None:
    """The error if most cells of a sample express too few known genes; None otherwise."""
    samples = list(_samples(matrix.n_cells))
    n_known = np.concatenate([count_known(matrix.rows(cells.start, cells.stop), match.ids) for cells in samples])
    n_known = n_known[np.unique(np.concatenate([np.r_[cells] for cells in samples]), return_index=True)[1]]
    share = float((n_known < min_genes).mean())
    if share <= _TOO_MANY_POOR:
        return None
    return (
        f"{share:.0%} of the cells that were looked at express fewer than {min_genes} of the {match.n_distinct:,} "
        f"known genes (the median is {np.median(n_known):.6g}) and would be left out. Pass min_genes= with a limit "
        f"that suits the data; for a small panel perhaps {min(min_genes, panel_limit(match.n_distinct))}."
    )


def _samples(n_cells: int) -> Iterator[slice]:
    """Cells at the beginning, in the middle and at the end; they may overlap."""
    for start in sorted({0, n_cells // 2, max(0, n_cells - _SAMPLE_CELLS)}):
        yield slice(start, min(start + _SAMPLE_CELLS, n_cells))


def _fingerprint(matrix: Matrix, gene_ids: np.ndarray, obs: pd.DataFrame, columns: Sequence[str]) -> str:
    """A fingerprint of genes, labels and counts: of all cells in memory; of cells on disk, which are not all read, at
    the beginning, in the middle and at the end, and of some cells between.
    """
    digest = hashlib.sha256(np.ascontiguousarray(gene_ids, "<i4").tobytes())
    n = matrix.n_cells
    if matrix.in_memory:
        spans = [slice(start, min(start + BLOCK_CELLS, n)) for start in range(0, n, BLOCK_CELLS)]
    else:
        starts = np.linspace(0, max(0, n - _SPREAD_CELLS), _SPREAD_SAMPLES).astype(int)
        spans = [*_samples(n), *(slice(int(start), min(int(start) + _SPREAD_CELLS, n)) for start in np.unique(starts))]
    for cells in spans:
        digest.update(count_fingerprints(matrix.rows(cells.start, cells.stop), gene_ids).astype("<u8").tobytes())
    for start in range(0, len(obs) if columns else 0, BLOCK_CELLS):
        part = obs[list(columns)].iloc[start : start + BLOCK_CELLS]
        digest.update("\n".join(str(_text(part[column]).tolist()) for column in columns).encode())
    return digest.hexdigest()
