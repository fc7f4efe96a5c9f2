"""How well embeddings tell cell types: nearest-neighbour accuracy, AvgBio and a linear probe; and PCA beside."""

import anndata as ad
import numpy as np
import scanpy as sc
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

N_NEIGHBORS = 15
RESOLUTIONS = (0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0)


def knn_accuracy(embedding: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> float:
    """Share of cells whose nearest neighbours (cosine) in other folds vote for their label."""
    unit = embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
    names, codes = np.unique(labels, return_inverse=True)
    right = 0
    for fold in np.unique(folds):
        test = folds == fold
        n = min(N_NEIGHBORS, int((~test).sum()))
        near = (
            NearestNeighbors(n_neighbors=n, algorithm="brute")
            .fit(unit[~test])
            .kneighbors(unit[test], return_distance=False)
        )
        votes = np.zeros((int(test.sum()), len(names)))
        np.add.at(votes, (np.arange(len(votes))[:, None], codes[~test][near]), 1)
        right += int((votes.argmax(1) == codes[test]).sum())
    return right / len(labels)


def avg_bio(embedding: np.ndarray, labels: np.ndarray) -> float:
    """Mean of NMI and ARI of the best Leiden clustering, and of the silhouette width scaled to 0..1."""
    adata = ad.AnnData(obsm={"X": embedding.astype(np.float32)}, shape=(len(embedding), 0))
    sc.pp.neighbors(adata, n_neighbors=N_NEIGHBORS, use_rep="X", metric="cosine", random_state=0)
    scores = []
    for resolution in RESOLUTIONS:
        sc.tl.leiden(adata, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=0)
        found = adata.obs["leiden"].to_numpy()
        scores.append((normalized_mutual_info_score(labels, found), adjusted_rand_score(labels, found)))
    nmi, ari = max(scores)
    return float(np.mean([nmi, ari, (silhouette_score(embedding, labels, metric="cosine") + 1) / 2]))


def probe_accuracy(embedding: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Which cells logistic regression, fitted to other folds (five parts of them at most), gives their label."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    parts = GroupKFold(min(5, len(np.unique(folds))))
    return cross_val_predict(probe, embedding, labels, groups=folds, cv=parts) == labels


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
