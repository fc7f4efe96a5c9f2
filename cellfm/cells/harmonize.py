"""Rename genes to the model's names: plan the names, sum equal genes, write both to AnnData."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from cellfm.cells.numbers import as_numbers
from cellfm.cells.outputs import record_run
from cellfm.cells.select import refresh
from cellfm.cells.values import describe
from cellfm.errors import InputError
from cellfm.genes.features import read_features
from cellfm.genes.hgnc import Synonyms
from cellfm.genes.match import HOW, GeneMatch, find_genes
from cellfm.genes.text import as_text
from cellfm.genes.vocabulary import Vocabulary, strip_version
from cellfm.keys import GENES
from cellfm.settings import means_missing


@dataclass(frozen=True)
class Naming:
    """New names of genes, and which genes become equal."""

    match: GeneMatch
    """The genes in terms of the vocabulary."""
    old: np.ndarray
    """(n_vars,) str: the names in `var_names`."""
    new: np.ndarray
    """(n_vars,) str: symbol of the vocabulary, else approved symbol, else the old name."""
    target: np.ndarray
    """(n_vars,) int: the number of the gene among the distinct genes."""
    kept: np.ndarray
    """(n_distinct,) int: the first row of each distinct gene."""
    ambiguous: np.ndarray
    """(n_vars,) bool: the name stands for several genes, and none of them was chosen."""
    is_gene: np.ndarray
    """(n_vars,) bool: human genes; other rows keep their names and are not merged."""

    @property
    def renamed(self) -> np.ndarray:
        """(n_vars,) bool: whether the name changes."""
        return self.old != self.new

    @property
    def n_merged(self) -> int:
        """Number of rows that are merged into another row."""
        return len(self.old) - len(self.kept)

    @property
    def merged(self) -> dict[str, tuple[str, ...]]:
        """New name to old names, for genes with several rows."""
        shared = np.bincount(self.target, minlength=len(self.kept))[self.target] > 1
        names: dict[str, tuple[str, ...]] = {}
        for old, new in zip(self.old[shared], self.new[shared], strict=True):
            names[new] = (*names.get(new, ()), old)
        return names


def name_genes(var: pd.DataFrame, vocab: Vocabulary, synonyms: Synonyms, *, gene_key: str | None = None) -> Naming:
    """Plan the new names; nothing is changed."""
    features = read_features(var)
    is_gene = features.is_gene
    match = find_genes(var, vocab, gene_key=gene_key, synonyms=synonyms, features=features)
    old = as_text(var.index)
    known = match.ids > 0
    new = old.copy()
    new[known] = vocab.symbols[match.ids[known] - 1]
    there = {*old, *match.names, *new[known]}
    for i in np.flatnonzero(~known & is_gene):
        for name in (match.names[i], old[i]):
            symbol, kind = synonyms.names.get(strip_version(name), ("", ""))
            if symbol and not (kind == "alias" and symbol in there):
                new[i] = symbol
                break
    _keep_apart(new, known, is_gene, vocab)
    # Rows that are no genes stay apart, whatever they are called.
    target, _ = pd.factorize(np.where(is_gene, new, np.arange(len(new)).astype(object)))
    _, kept = np.unique(target, return_index=True)
    return Naming(match, old, new, target, kept, match.ambiguous, is_gene)


def merge_matrices(adata: AnnData, naming: Naming) -> dict[str | None, Any]:
    """X (under None) and every layer, with equal genes summed; empty if no genes are equal.

    Raises
    ------
    InputError
        A matrix holds values that cannot be summed: negative values, or values that are not numbers.
    """
    if not naming.n_merged:
        return {}
    base = (adata.uns.get("log1p") or {}).get("base") or math.e  # scanpy keeps it there
    merged: dict[str | None, Any] = {}
    for layer, values in _matrices(adata):
        name = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
        if not (isinstance(values, np.ndarray) or sp.issparse(values)):
            raise InputError(f"{name} is a {type(values).__name__}: call adata = adata.to_memory() first.")
        merged[layer] = merge_columns(values, naming.target, name, base, is_gene=naming.is_gene)
    return merged


def merge_columns(
    values: Any, target: np.ndarray, name: str, base: float = math.e, *, is_gene: np.ndarray | None = None
) -> Any:
    """Sum columns with the same `target`, logarithms on the linear scale; other columns are copied unchanged.

    Parameters
    ----------
    values
        (n_cells, n_vars), NumPy or SciPy; the format is kept, and so is the type if it can hold the sums.
    target
        (n_vars,) position of each column in the result.
    name
        Name of the matrix in messages.
    base
        Of the logarithm, for values after log1p.
    is_gene
        (n_vars,) bool: columns that tell what the values are; antibodies may be scaled in their own way.
    """
    values = as_numbers(values, name)
    looked_at = values if is_gene is None or is_gene.all() else values[:, np.flatnonzero(is_gene)]
    found = describe(looked_at.data if sp.issparse(values) else looked_at)
    if found.kind in ("negative", "not finite"):
        raise InputError(
            f"Several rows of the same gene have to be added up, and {name} has {found}: such values cannot be added. "
            f"Remove that matrix, or start from the counts."
        )
    work = _wide(values)
    shared = np.bincount(target)[target] > 1
    alone = _place(target, np.flatnonzero(~shared), work.dtype)
    columns = np.flatnonzero(shared)
    together = sp.csr_matrix(work[:, columns]) if sp.issparse(work) else work[:, columns]
    scale = math.log(base)
    if found.kind == "log-normalised":
        together = _apply(together, lambda x: np.expm1(x * scale))
    together = together @ _place(target, columns, work.dtype)[columns]
    if found.kind == "log-normalised":
        together = _apply(together, lambda x: np.log1p(x) / scale)
    result = work @ alone + together
    result = result.asformat(values.format) if sp.issparse(values) else np.asarray(result)
    return result.astype(_fitting(values.dtype, result))


def write_genes(
    data: AnnData | MuData,
    adata: AnnData,
    naming: Naming,
    merged: dict[str | None, Any],
    vocab: Vocabulary,
    hgnc: str | None,
) -> None:
    """Put the new names and the merged matrices into `adata`, which is `data` or a table of it, and record the run."""
    if adata.is_view:
        adata._init_as_actual(adata.copy())
    original = as_text(adata.var[GENES.original]) if GENES.original in adata.var else naming.old
    if naming.n_merged:
        adata._inplace_subset_var(naming.kept)
        for layer, values in merged.items():
            if layer is None:
                adata.X = values
            else:
                adata.layers[layer] = values
        refresh(data)  # a MuData cannot follow genes that are left out and renamed at once
    adata.var[GENES.original] = original[naming.kept]
    adata.var[GENES.matched] = pd.Categorical(naming.match.how[naming.kept], categories=HOW)
    adata.var_names = pd.Index(naming.new[naming.kept], name=adata.var_names.name)
    known = naming.match.how
    record_run(
        adata,
        GENES.uns,
        "var",
        vocabulary_sha256=vocab.hash,
        hgnc_sha256=hgnc,
        column=naming.match.column,
        n_genes=len(naming.old),
        **{f"n_{how}": int((known == how).sum()) for how in HOW},
        n_renamed=int(naming.renamed.sum()),
        n_merged=naming.n_merged,
        n_ambiguous=int(naming.ambiguous.sum()),
    )
    refresh(data)


def _keep_apart(new: np.ndarray, known: np.ndarray, is_gene: np.ndarray, vocab: Vocabulary) -> None:
    """Change, in place, the names of unknown genes that are empty or equal to that of a known gene."""
    like_known = (vocab.find_symbols(new) > 0) | (vocab.find_ensembl(new) > 0)
    taken = set(new)
    symbols = set(new[known])
    for i in np.flatnonzero(~known & is_gene):
        if like_known[i] or new[i] in symbols or means_missing(new[i]):
            name = next(name for n in range(1, len(new) + 2) if (name := f"{new[i]}-{n}") not in taken)
            taken.add(name)
            new[i] = name


def _matrices(adata: AnnData) -> Iterable[tuple[str | None, Any]]:
    if adata.X is not None:
        yield None, adata.X
    yield from ((name, values) for name, values in adata.layers.items() if name is not None)  # None: X in anndata 0.13


def _wide(values: Any) -> Any:
    """The values in a type that can hold the sums."""
    if values.dtype.kind in "iub":
        return values.astype(np.int64)
    if values.dtype != np.float16:
        return values
    if sp.issparse(values):  # SciPy can build but not multiply these
        return type(values)((values.data.astype(np.float32), values.indices, values.indptr), shape=values.shape)
    return values.astype(np.float32)


def _fitting(dtype: np.dtype, values: Any) -> np.dtype:
    """`dtype`, or a type that the values need."""
    if dtype.kind == "b":
        return dtype
    if dtype.kind in "iu":
        return np.result_type(dtype, np.min_scalar_type(int(values.max()))) if values.shape[0] else dtype
    return values.dtype


def _place(target: np.ndarray, columns: np.ndarray, dtype: np.dtype) -> sp.csr_matrix:
    """(n_vars, n_distinct): a matrix of ones that moves columns to their target."""
    ones = np.ones(len(columns), dtype)
    return sp.csr_matrix((ones, (columns, target[columns])), (len(target), int(target.max()) + 1))


def _apply(values: Any, function: Any) -> Any:
    """Apply a function that leaves 0 alone."""
    if not sp.issparse(values):
        return function(values)
    return sp.csr_matrix((function(values.data), values.indices, values.indptr), shape=values.shape)
