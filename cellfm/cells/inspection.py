"""Inspect data block by block: types of values, known genes, depth, problems and advice."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from cellfm.cells.counts import counts_problem, counts_remarks
from cellfm.cells.harmonize import Naming, name_genes
from cellfm.cells.matrix import Matrix, read_matrix
from cellfm.cells.report import Depth, Report
from cellfm.cells.select import size_problem
from cellfm.cells.values import Values, describe, rounded
from cellfm.errors import InputError, MissingKeyError
from cellfm.genes.hgnc import Synonyms
from cellfm.genes.match import HOW, MIN_KNOWN_GENES, genes_problem
from cellfm.genes.vocabulary import Vocabulary
from cellfm.io.messages import counted, counted_of

# From what rules a matrix out to what says nothing: one block decides for all.
_KINDS = ("not finite", "negative", "normalised", "log-normalised", "fractional counts", "counts", "empty")
_WAYS = tuple(how for how in HOW if how != "none")
_LISTED = ("symbol", "ensembl", "previous", "alias")  # even where no gene was matched so


def inspect_data(
    adata: AnnData,
    vocab: Vocabulary,
    synonyms: Synonyms,
    *,
    layer: str | None = None,
    gene_key: str | None = None,
    min_genes: int = MIN_KNOWN_GENES,
) -> Report:
    """Inspect all values and names; `min_genes` is the number of genes that a cell should express.

    Raises
    ------
    MissingKeyError
        No such layer or column.
    """
    matrix, no_numbers = _matrix_or_zeros(adata, layer)
    naming = name_genes(matrix.var, vocab, synonyms, gene_key=gene_key)
    ids = naming.match.ids
    found: list[Values] = []
    known: list[np.ndarray] = [np.zeros(0, np.int64)]
    depth: list[np.ndarray] = [np.zeros(0)]
    known_depth = 0.0
    for _, block in () if no_numbers else matrix.blocks():
        found.append(describe(block.data))
        if found[-1].off:
            block = rounded(block)
        known.append(count_known(block, ids))
        if found[-1].kind not in ("not finite", "negative"):
            depth.append(block @ np.ones(len(ids)))
            known_depth += float((block @ (ids > 0).astype(np.float64)).sum())
    values = min(found, key=lambda f: _KINDS.index(f.kind), default=Values("empty", 0.0))
    if values.kind == "counts":
        values = replace(values, off=max(f.off for f in found), example=max(f.example for f in found))
    values = matrix.recognise(values)
    per_cell, depths = np.concatenate(known), np.concatenate(depth)
    summable = values.kind not in ("not finite", "negative") and depths.sum() > 0
    how = naming.match.how
    n_few, n_empty = int((per_cell < min_genes).sum()), int((per_cell == 0).sum())
    return Report(
        matrix=matrix.name,
        values="no numbers" if no_numbers else str(values),
        n_cells=matrix.n_cells,
        n_genes=naming.match.n_genes,
        left_out=matrix.features.left_out,
        column=naming.match.column,
        matched={kind: int((how == kind).sum()) for kind in _WAYS if kind in _LISTED or (how == kind).any()},
        n_known=naming.match.n_distinct,
        min_genes=min_genes,
        renamed=dict(zip(naming.old[naming.renamed], naming.new[naming.renamed], strict=True)),
        merged=naming.merged,
        ambiguous=tuple(naming.old[naming.ambiguous]),
        dropped=tuple(naming.old[(ids == 0) & naming.is_gene]),
        share_of_counts=known_depth / float(depths.sum()) if summable else None,
        n_few=n_few,
        n_empty=n_empty,
        depth=Depth(float(depths.min()), float(np.median(depths)), float(depths.max())) if summable else None,
        genes_per_cell=float(np.median(per_cell)) if len(per_cell) else None,
        problems=tuple(_problems(adata, matrix, values, no_numbers, naming, vocab)),
        advice=(
            *counts_remarks(values, matrix.name),
            *_advice(adata, matrix, naming, synonyms, n_few, n_empty, min_genes),
        ),
    )


def count_known(block: sp.csr_matrix, gene_ids: np.ndarray) -> np.ndarray:
    """(n_cells,) known genes with a value above 0; columns of one gene count once."""
    n_cells = block.shape[0]
    ids = gene_ids[block.indices].astype(np.int64)
    rows = np.repeat(np.arange(n_cells), np.diff(block.indptr))
    token = (ids > 0) & (block.data > 0)
    rows, ids = rows[token], ids[token]
    known = gene_ids[gene_ids > 0]
    if len(np.unique(known)) < len(known):
        width = int(gene_ids.max()) + 1
        rows = np.unique(rows * width + ids) // width
    return np.bincount(rows, minlength=n_cells)


def _matrix_or_zeros(adata: AnnData, layer: str | None) -> tuple[Matrix, str | None]:
    """The matrix, or one of zeros in the place of one without numbers, and what is wrong with that."""
    try:
        return read_matrix(adata, layer), None
    except MissingKeyError:
        raise
    except InputError as error:
        var = adata.raw.var if layer == "raw" else adata.var
        name = {None: "adata.X", "X": "adata.X", "raw": "adata.raw.X"}.get(layer, f"adata.layers[{layer!r}]")
        return Matrix(sp.csr_matrix((adata.n_obs, len(var)), dtype=np.float32), var, name), str(error)


def _problems(
    adata: AnnData, matrix: Matrix, values: Values, no_numbers: str | None, naming: Naming, vocab: Vocabulary
) -> Iterable[str]:
    if problem := size_problem(adata):
        yield problem
        return
    if problem := matrix.features.problem(matrix.var_name):
        yield problem
        return
    if problem := no_numbers or counts_problem(values, matrix.name, adata):
        yield problem
    if problem := genes_problem(naming.match, vocab, MIN_KNOWN_GENES, matrix.var_name):
        yield problem


def _advice(
    adata: AnnData, matrix: Matrix, naming: Naming, synonyms: Synonyms, n_few: int, n_empty: int, min_genes: int
) -> Iterable[str]:
    n_vars, n_matched = naming.match.n_genes, naming.match.n_matched
    if matrix.features.note:
        yield matrix.features.note
    if n_matched < n_vars / 2:
        yield (
            f"The model knows {n_matched:,} of {counted(n_vars, 'gene')} ({n_matched / max(n_vars, 1):.0%}); the "
            "others are left out."
        )
    if n_matched < n_vars and not len(synonyms):
        yield "Leave out hgnc=False to match previous symbols and aliases too."
    if naming.match.guess:
        yield naming.match.guess
    if len(naming.match.contradictions) and not naming.match.contradictions.problem:
        yield f"{naming.match.contradictions} Those of {naming.match.contradictions.first} are used."
    if naming.ambiguous.any():
        yield (
            f"{counted(int(naming.ambiguous.sum()), 'name belongs', 'names belong')} to several genes: left out. "
            "A column of var with their Ensembl ids would identify them."
        )
    if naming.n_merged:
        yield (
            f"{counted(naming.n_merged, 'gene is', 'genes are')} the same as another one under the model's names; "
            "cf.pp.harmonize_genes(adata) and cf.tl.embed add their counts up."
        )
    if n_few:
        removes = "cf.pp.prepare(adata) removes them"
        if n_few > adata.n_obs / 2:
            removes = "cf.pp.prepare(adata) removes no more than half: pass min_genes= with the limit, or 0 to keep all"
        yield (
            f"{counted_of(n_few, adata.n_obs, 'cell', 'expresses', 'express')} fewer than {min_genes} known "
            f"genes, {n_empty:,} of them none. {removes}; cf.tl.embed keeps them, with NaN for cells without any."
        )
    if not adata.obs_names.is_unique:
        n_repeated = int(adata.obs_names.duplicated().sum())
        names = counted(n_repeated, "cell name occurs", "cell names occur")
        yield f"{names} more than once, which is allowed: the order of the cells is kept."
