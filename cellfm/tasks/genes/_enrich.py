"""Gene sets, and their over-representation in modules (hypergeometric test, Benjamini-Hochberg)."""

import contextlib
import difflib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.stats import false_discovery_control, hypergeom

from cellfm.errors import DownloadError, InputError
from cellfm.io.http import require_reachable

GeneSets = Mapping[str, Iterable[str]] | str | Path
"""Names and their genes, the path of a GMT file, or the name of an Enrichr library."""
_ENRICHR = "https://maayanlab.cloud"


def read_gene_sets(gene_sets: GeneSets) -> dict[str, list[str]]:
    """Load gene sets from any source.

    Raises
    ------
    InputError
        A line of the file is invalid (the message names it), there is no such file, or it is empty.
    DownloadError
        An Enrichr library was named and cannot be fetched.
    """
    if isinstance(gene_sets, Mapping):
        listed = {name: [genes] if isinstance(genes, str) else genes for name, genes in gene_sets.items()}
        sets = {str(name): list(dict.fromkeys(map(str, genes))) for name, genes in listed.items()}
    elif str(gene_sets).endswith(".gmt") or Path(gene_sets).expanduser().is_file():
        sets = _read_gmt(Path(gene_sets).expanduser())
    else:
        sets = _fetch(str(gene_sets))
    if not any(sets.values()):
        raise InputError("The gene sets contain no genes.")
    return sets


def _read_gmt(path: Path) -> dict[str, list[str]]:
    """A file of lines ``term <tab> description <tab> gene <tab> gene ...``; weights behind a comma are left out."""
    if not path.is_file():
        raise InputError(f"No file of gene sets at {path}.")
    sets: dict[str, list[str]] = {}
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file; expected gene sets in GMT form.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, *fields = line.split("\t")
        genes = [gene.split(",")[0].strip() for gene in fields[1:]]
        if not name.strip() or not any(genes):
            raise InputError(
                f"{path}, line {number}: expected term, description and genes, separated by tabs, found {line[:60]!r}."
            )
        if name in sets:
            raise InputError(f"{path}, line {number}: the term {name!r} occurs twice.")
        sets[name] = list(dict.fromkeys(gene for gene in genes if gene))
    return sets


def _fetch(library: str) -> dict[str, list[str]]:
    import gseapy  # slow to import

    try:
        require_reachable(_ENRICHR)
        with contextlib.redirect_stdout(io.StringIO()):
            return gseapy.get_library(library, organism="Human")
    except Exception as error:  # noqa: BLE001 (gseapy raises whatever it meets)
        raise DownloadError(
            f"The Enrichr library {library!r} could not be downloaded ({error}). Check the name and the network, or "
            "pass the path of a GMT file or a dict of gene sets, which need no network."
        ) from None


def match_sets(
    sets: Mapping[str, list[str]], background: np.ndarray, *, min_size: int = 1, max_size: int | None = None
) -> tuple[list[str], sp.csr_matrix]:
    """Terms to test, and their genes among the background, (n_terms, n_genes).

    Sizes are those within the background: terms with fewer than `min_size` or more than `max_size` genes are left out.

    Raises
    ------
    InputError
        No gene of any set is in the background (names of both are shown), or all sets are too small or too large.
    """
    largest = len(background) if max_size is None else max_size
    if not 1 <= min_size <= largest:
        raise InputError(f"Sizes of gene sets must be 1 or more, and min_set_genes ({min_size}) at most max_set_genes.")
    place = {gene: i for i, gene in enumerate(background)}
    found = {term: [place[gene] for gene in genes if gene in place] for term, genes in sets.items()}
    found = {term: genes for term, genes in found.items() if genes}
    if not found:
        theirs = list(dict.fromkeys(gene for genes in sets.values() for gene in genes))[:5]
        near = difflib.get_close_matches(theirs[0].upper(), [gene.upper() for gene in background[:5000]], n=1)
        case = " (only in another case?)" if near else ""
        raise InputError(
            f"No gene of the gene sets is among the {len(background):,} genes of the graph. The sets have "
            f"{', '.join(theirs)} ..., the data {', '.join(background[:5])} ...{case}. Both "
            "need the same names, usually symbols."
        )
    sizes = [len(genes) for genes in found.values()]
    found = {term: genes for term, genes in found.items() if min_size <= len(genes) <= largest}
    if not found:
        raise InputError(
            f"No gene set has {min_size:,} to {largest:,} genes in the graph; theirs are {min(sizes):,} to "
            f"{max(sizes):,}. Change min_set_genes= or max_set_genes=."
        )
    rows = np.repeat(np.arange(len(found)), [len(genes) for genes in found.values()])
    columns = np.concatenate([np.array(genes) for genes in found.values()])
    ones = np.ones(len(rows), np.float32)
    return list(found), sp.csr_matrix((ones, (rows, columns)), (len(found), len(background)))


@dataclass(frozen=True)
class Tests:
    """Modules against terms: the pairs that share genes, as arrays of one length. All others have a p-value of 1."""

    module: np.ndarray
    term: np.ndarray
    """Place of the term among the terms."""
    overlap: np.ndarray
    module_size: np.ndarray
    term_size: np.ndarray
    p_value: np.ndarray
    """Probability of as many shared genes or more, for a module drawn at random from all genes of the graph."""
    p_adjusted: np.ndarray
    """Adjusted over all pairs of a module and a term, with or without shared genes (Benjamini and Hochberg 1995)."""


def tests_of(modules: np.ndarray, members: sp.csr_matrix) -> Tests:
    """Hypergeometric tests of over-representation.

    Parameters
    ----------
    modules
        (n_genes,) module of each gene, -1 for none. All genes are the background.
    members
        (n_terms, n_genes) 1 where a gene belongs to a term.

    Returns
    -------
    The tests of pairs that share genes. P-values are adjusted over all pairs: selecting pairs with shared genes first,
    as gseapy and others do, would be too optimistic, because the selection depends on the modules.
    """
    of_module = _membership(modules)
    overlap = (of_module @ members.T).tocoo()
    shared = np.rint(overlap.data).astype(int)
    module_size = np.asarray(of_module.sum(1)).ravel().astype(int)[overlap.row]
    term_size = np.asarray(members.sum(1)).ravel().astype(int)[overlap.col]
    # Most pairs share their three sizes with others, and SciPy computes pairs one by one.
    sizes, which = np.unique(np.column_stack((shared, term_size, module_size)), axis=0, return_inverse=True)
    p = hypergeom.sf(sizes[:, 0] - 1, len(modules), sizes[:, 1], sizes[:, 2])[which.ravel()]
    every = np.ones(n_tests(modules, members))
    every[: len(p)] = p
    adjusted = false_discovery_control(every)[: len(p)] if len(p) else p
    return Tests(overlap.row, overlap.col, shared, module_size, term_size, p, adjusted)


def n_tests(modules: np.ndarray, members: sp.csr_matrix) -> int:
    """Pairs of a module and a term."""
    return (int(modules.max(initial=-1)) + 1) * members.shape[0]


def enriched_terms(modules: np.ndarray, terms: list[str], members: sp.csr_matrix, alpha: float) -> set[str]:
    """Terms that are over-represented in at least one module."""
    tests = tests_of(modules, members)
    return {terms[i] for i in np.unique(tests.term[tests.p_adjusted <= alpha])}


def over_representation(
    modules: np.ndarray, terms: list[str], members: sp.csr_matrix, genes: np.ndarray
) -> pd.DataFrame:
    """The tests as a table, the most significant first, with the names of the shared `genes`."""
    tests = tests_of(modules, members)
    order = np.lexsort((tests.term, tests.module, tests.p_value))
    n, k, m, t = len(modules), tests.overlap, tests.module_size, tests.term_size
    with np.errstate(divide="ignore", invalid="ignore"):  # a module of all genes has no odds
        odds = k * (n - m - t + k) / ((m - k) * (t - k))
    in_module, in_term = _membership(modules).tolil().rows, members.tolil().rows
    shared = [
        sorted(genes[list(set(in_module[i]) & set(in_term[j]))]) for i, j in zip(tests.module, tests.term, strict=True)
    ]
    table = pd.DataFrame(
        {
            "module": tests.module,
            "term": np.array(terms, object)[tests.term],
            "overlap": k,
            "module_size": m,
            "term_size": t,
            "odds_ratio": odds,
            "p_value": tests.p_value,
            "p_adjusted": tests.p_adjusted,
            "genes": [";".join(names) for names in shared],
        }
    )
    return table.iloc[order].reset_index(drop=True)


def _membership(modules: np.ndarray) -> sp.csr_matrix:
    """(n_modules, n_genes): 1 where a gene belongs to a module."""
    inside = np.flatnonzero(modules >= 0)
    shape = (int(modules.max(initial=-1)) + 1, len(modules))
    return sp.csr_matrix((np.ones(len(inside), np.float32), (modules[inside], inside)), shape)
