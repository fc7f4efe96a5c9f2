"""Baseline inputs of a head instead of a model's embedding: variable genes, and their principal components."""

import warnings
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from sklearn.decomposition import PCA

from cellfm.cells.matrix import Matrix

MODEL, COMPONENTS, GENES = "model", "pca", "hvg"
"""Possible inputs of a head: the embedding of the model, principal components, variable genes."""
TARGET_SUM = 1e4
N_TOP_GENES = 2000
N_COMPONENTS = 50


@dataclass(frozen=True)
class Features:
    """One description of training and test cells."""

    train: np.ndarray
    """(n_train, d) float32."""
    test: np.ndarray
    """(n_test, d) float32."""


def log_normalised(counts: Matrix) -> sp.csr_matrix:
    """log1p of counts per 10,000 over all measured genes; values that are already logarithms are not changed."""
    values = counts.rows(0, counts.n_cells).astype(np.float32)
    if counts.describe().kind == "log-normalised":
        return values
    return log_of_counts(values)


def log_of_counts(counts: sp.csr_matrix, target_sum: float = TARGET_SUM) -> sp.csr_matrix:
    """log1p of counts (n_cells, n_genes) per `target_sum` over these genes."""
    total = np.asarray(counts.sum(1)).ravel()
    scale = np.divide(target_sum, total, out=np.zeros_like(total), where=total > 0)
    return sp.csr_matrix(sp.diags(scale) @ counts, dtype=np.float32).log1p()


def gene_features(train: sp.csr_matrix, test: sp.csr_matrix) -> Features:
    """The 2,000 most variable genes of the training cells (scanpy's default way), log-normalised.

    Parameters
    ----------
    train, test
        (n_train, n_genes) and (n_test, n_genes): log-normalised.
    """
    genes = variable_genes(train)
    return Features(train[:, genes].toarray(), test[:, genes].toarray())


def component_features(genes: Features, *, random_state: int = 0) -> Features:
    """50 principal components of variable genes, fitted to the training cells and applied to the test cells."""
    pca = fit_components(genes.train, random_state)
    return Features(pca.transform(genes.train), pca.transform(genes.test))


def fit_components(genes: np.ndarray, random_state: int) -> PCA:
    """50 principal components of variable genes (n_cells, n_genes), or fewer where there are fewer cells or genes."""
    n_components = min(N_COMPONENTS, *(size - 1 for size in genes.shape))
    return PCA(n_components, svd_solver="randomized", random_state=random_state).fit(genes)


def variable_genes(values: sp.csr_matrix) -> np.ndarray:
    """(n_genes,) bool: the most variable genes, or all where there are no more."""
    expressed = np.asarray((values > 0).sum(0)).ravel() > 0
    if expressed.sum() <= N_TOP_GENES:
        return expressed
    import scanpy as sc  # slow to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = sc.pp.highly_variable_genes(
            AnnData(values[:, expressed]), n_top_genes=N_TOP_GENES, flavor="seurat", inplace=False
        )
    expressed[np.flatnonzero(expressed)[~table["highly_variable"].to_numpy()]] = False
    return expressed
