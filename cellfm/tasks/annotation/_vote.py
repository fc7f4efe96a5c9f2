"""Majority vote: one label for all cells of a cluster (Dominguez Conde 2022)."""

import numpy as np
import pandas as pd

from cellfm.genes.text import as_text

N_NEIGHBORS = 10
_RESOLUTIONS = ((5_000, 5), (20_000, 10), (40_000, 15), (100_000, 20), (200_000, 25))
_FINEST = 30


def vote(labels: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """The most frequent label of each cell's cluster, (n,) object; of equally frequent labels, the first by name.

    Parameters
    ----------
    labels
        (n,) str.
    clusters
        (n,) str; None for cells without a cluster, which keep their label.
    """
    table = pd.DataFrame({"label": labels, "cluster": clusters})
    winners = table.groupby("cluster")["label"].agg(_most_frequent)
    voted = table["cluster"].map(winners).astype(object)  # without clusters it would be a column of numbers
    return voted.where(voted.notna(), table["label"]).to_numpy(object)


def _most_frequent(labels: pd.Series) -> str:
    return str(labels.value_counts().sort_index().idxmax())


def find_clusters(embedding: np.ndarray, *, random_state: int = 0) -> np.ndarray:
    """Small clusters of a neighbour graph, (n,) str: Leiden at a resolution that grows with the number of cells.

    Cells without an embedding (NaN) get None.
    """
    import scanpy as sc  # slow to import
    from anndata import AnnData

    clusters = np.full(len(embedding), None, object)
    embedded = np.flatnonzero(np.isfinite(embedding[:, 0]))
    if len(embedded) < 3:
        return clusters
    graph = AnnData(np.asarray(embedding[embedded], np.float32))
    n_neighbors = min(N_NEIGHBORS, len(embedded) - 1)
    sc.pp.neighbors(graph, n_neighbors=n_neighbors, use_rep="X", random_state=random_state)
    resolution = next((fine for n, fine in _RESOLUTIONS if len(embedded) < n), _FINEST)
    sc.tl.leiden(
        graph, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=random_state
    )
    clusters[embedded] = as_text(graph.obs["leiden"])
    return clusters
