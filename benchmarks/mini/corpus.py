"""The count data that `mini` is judged on, as sparse matrices over its vocabulary."""

from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp

from benchmarks.mini.vocabulary import approved_names
from cellfm.genes.vocabulary import Vocabulary

NO_LABEL = ("Doublet", "Negative")
"""Entries of `cell_type` that are no cell type."""


@dataclass
class CountSet:
    """One data set: raw counts of its measured genes, and what is known of its cells."""

    name: str
    counts: sp.csr_matrix
    """(n_cells, n_vars) float32."""
    gene_ids: np.ndarray
    """(n_vars,) int32: id in the vocabulary, 0 where unknown."""
    labels: np.ndarray | None
    """(n_cells,) cell types, "" where unknown; None if the set has none, or only one."""
    batch: np.ndarray | None
    """(n_cells,) batches; None if there is one."""

    @property
    def n_cells(self) -> int:
        return self.counts.shape[0]


def load_corpus(data: Path, vocab: Vocabulary) -> list[CountSet]:
    """Every h5ad file of a folder that holds integer counts, in the order of the names."""
    aliases = approved_names(data / "gene_info")[1]
    sets = []
    for path in sorted(data.glob("*.h5ad")):
        adata = ad.read_h5ad(path)
        counts = sp.csr_matrix(adata.X, dtype=np.float32)
        if not (counts.data == np.rint(counts.data)).all():
            continue
        known = np.asarray(counts.sum(1)).ravel() > 0
        counts, obs = counts[known], adata.obs[known]
        sets.append(
            CountSet(
                path.stem,
                counts,
                find_genes(adata.var, vocab, aliases),
                _column(obs, "cell_type", NO_LABEL),
                _column(obs, "batch"),
            )
        )
    return sets


def find_genes(var: pd.DataFrame, vocab: Vocabulary, aliases: dict[str, str]) -> np.ndarray:
    """Vocabulary ids of genes: by symbol, else by the approved symbol of an alias, else by Ensembl id."""
    names = var.index.to_numpy(str)
    ids = vocab.find_symbols(names)
    ids = np.where(ids > 0, ids, vocab.find_symbols(np.array([aliases.get(name, "") for name in names])))
    return np.where(ids > 0, ids, vocab.find_ensembl(var["ensembl_id"].to_numpy(str))).astype(np.int32)


def principal_components(counts: sp.csr_matrix) -> np.ndarray:
    """50 principal components of 2,000 highly variable genes, as users of scanpy compute them."""
    adata = ad.AnnData(counts.copy())
    sc.pp.filter_genes(adata, min_cells=3)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    if adata.n_vars > 2000:
        sc.pp.highly_variable_genes(adata, n_top_genes=2000)
    sc.pp.pca(adata, n_comps=min(50, adata.n_vars - 1, adata.n_obs - 1), random_state=0)
    return adata.obsm["X_pca"]


def _column(obs: pd.DataFrame, key: str, left_out: tuple[str, ...] = ()) -> np.ndarray | None:
    if key not in obs:
        return None
    values = obs[key].astype(object).where(obs[key].notna(), "").to_numpy(str)
    values[np.isin(values, left_out)] = ""
    return values if len(np.unique(values[values != ""])) > 1 else None
