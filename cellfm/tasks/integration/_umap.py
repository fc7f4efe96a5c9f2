"""UMAP of an embedding, for plots."""

import warnings

import numpy as np
from anndata import AnnData

N_NEIGHBORS = 15
MIN_CELLS_OF_UMAP = 4
"""Of fewer cells, umap-learn computes nothing."""


def umap_of(embedding: np.ndarray, *, random_state: int = 0) -> np.ndarray:
    """UMAP (McInnes 2018) of the cosine neighbours, (n_cells, 2) float32; NaN for cells without an embedding."""
    import scanpy as sc  # slow to import

    embedded = np.isfinite(embedding).all(axis=1)
    found = np.full((len(embedding), 2), np.nan, np.float32)
    adata = AnnData(shape=(int(embedded.sum()), 1), obsm={"X": embedding[embedded]})  # anndata 0.11 ignores obsm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        n_neighbors = min(N_NEIGHBORS, adata.n_obs - 1)
        sc.pp.neighbors(adata, n_neighbors, use_rep="X", metric="cosine", random_state=random_state)
        sc.tl.umap(adata, random_state=random_state)
    found[embedded] = adata.obsm["X_umap"]
    return found
