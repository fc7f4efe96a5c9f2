"""Graphs of genes, linked to their nearest genes by embedding or co-expression, and their modules."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors

Flavor = Literal["igraph", "leidenalg"]
"""Implementation of Leiden."""
EXACT_GENES = 20_000
"""Above this number of genes, neighbours are found approximately."""
N_ITERATIONS = 10
"""Iterations of Leiden; more have almost no effect."""


def neighbour_graph(features: np.ndarray, n_neighbors: int, random_state: int = 0) -> sp.csr_matrix:
    """Symmetric graph of nearest neighbours by cosine, (n, n); weights are cosines above 0.

    Parameters
    ----------
    features
        (n_genes, n_features), finite. With each gene's expression, standardised, the cosine is the correlation.
    """
    n = len(features)
    n_neighbors = min(n_neighbors, n - 1)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    if n <= EXACT_GENES:
        index = NearestNeighbors(n_neighbors=n_neighbors, metric="euclidean", algorithm="brute").fit(unit)
        near = index.kneighbors(return_distance=False)  # without the gene itself
    else:
        from pynndescent import NNDescent  # the default of umap

        near = NNDescent(unit, n_neighbors=n_neighbors + 1, random_state=random_state).neighbor_graph[0][:, 1:]
    row = np.repeat(np.arange(n), n_neighbors)
    cosine = np.einsum("ij,ij->i", unit[row], unit[near.ravel()])
    graph = sp.csr_matrix((np.maximum(cosine, 0), (row, near.ravel())), (n, n))
    graph = graph.maximum(graph.T).tocsr()
    graph.eliminate_zeros()
    return graph


def leiden_modules(
    graph: sp.csr_matrix,
    resolutions: list[float],
    *,
    min_genes: int,
    random_state: int = 0,
    flavor: Flavor = "igraph",
) -> np.ndarray:
    """Module of each gene at each resolution, (n_genes, n_resolutions) int32.

    Modules are numbered from the largest; genes of modules with fewer than `min_genes` get -1 (Traag 2019; modularity
    with a resolution, as in scanpy).
    """
    import igraph as ig  # slow to import

    upper = sp.triu(graph, k=1).tocoo()
    network = ig.Graph(n=graph.shape[0], edges=np.column_stack((upper.row, upper.col)), directed=False)
    modules = np.empty((graph.shape[0], len(resolutions)), np.int32)
    for i, resolution in enumerate(resolutions):
        partition = _igraph if flavor == "igraph" else _leidenalg
        modules[:, i] = by_size(np.array(partition(network, upper.data, resolution, random_state)), min_genes)
    return modules


def _igraph(network: Any, weights: np.ndarray, resolution: float, random_state: int) -> list[int]:
    with _seeded(random_state):
        return network.community_leiden(
            "modularity", weights=weights, resolution=resolution, n_iterations=N_ITERATIONS
        ).membership


def _leidenalg(network: Any, weights: np.ndarray, resolution: float, random_state: int) -> list[int]:
    import leidenalg

    return leidenalg.find_partition(
        network,
        leidenalg.RBConfigurationVertexPartition,
        weights=weights,
        resolution_parameter=resolution,
        n_iterations=N_ITERATIONS,
        seed=random_state,
    ).membership


def by_size(modules: np.ndarray, min_genes: int) -> np.ndarray:
    """Modules numbered from the largest, -1 for those with fewer than `min_genes` members and for negative ones."""
    known = modules >= 0
    names, first, inverse, sizes = np.unique(modules[known], return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -sizes))  # of equal sizes the first
    number = np.empty(len(names), np.int32)
    number[order] = np.arange(len(names))
    number[sizes < min_genes] = -1
    result = np.full(len(modules), -1, np.int32)
    result[known] = number[inverse]
    return result


def random_modules(modules: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The same modules with shuffled genes: equal number and sizes."""
    return modules[generator.permutation(len(modules))]


def spread(graph: sp.csr_matrix, places: np.ndarray, n: int) -> sp.csr_matrix:
    """The graph of some genes among all `n`, (n, n) float32."""
    placement = sp.csr_matrix((np.ones(len(places), np.float32), (places, np.arange(len(places)))), (n, len(places)))
    return (placement @ graph.astype(np.float32) @ placement.T).tocsr()


def standardised_expression(values: sp.csr_matrix) -> np.ndarray:
    """(n_genes, n_cells) float32: each gene with mean 0 and norm 1, so that products are Pearson correlations."""
    dense = np.ascontiguousarray(values.T.toarray(), dtype=np.float32)
    dense -= dense.mean(1, keepdims=True)
    dense /= np.maximum(np.linalg.norm(dense, axis=1, keepdims=True), 1e-12)
    return dense


def umap_of(graph: sp.csr_matrix, random_state: int = 0) -> np.ndarray:
    """UMAP of a graph, (n, 2) float32."""
    import scanpy as sc  # slow to import

    points = AnnData(shape=graph.shape[:1] + (1,), obsp={"connectivities": graph})  # noqa: RUF005
    points.uns["neighbors"] = {"connectivities_key": "connectivities", "params": {"method": "umap"}}
    points.obsm["X_start"] = np.zeros((graph.shape[0], 1), np.float32)
    points.uns["neighbors"]["params"]["use_rep"] = "X_start"
    sc.tl.umap(points, random_state=random_state)
    return points.obsm["X_umap"].astype(np.float32)


def strongest(similarity: list[np.ndarray], n_neighbors: int) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, where one is among the `n_neighbors` most similar of the other by any of the matrices."""
    pairs = set()
    for matrix in similarity:
        order = np.argsort(-(matrix - 2 * np.eye(len(matrix))), axis=1, kind="stable")[:, :n_neighbors]
        pairs |= {(min(i, j), max(i, j)) for i, near in enumerate(order) for j in near if i != j and matrix[i, j] > 0}
    return sorted(pairs)


@contextmanager
def _seeded(random_state: int) -> Iterator[None]:
    """Igraph takes its random numbers from Python's generator; give it a separate one."""
    import igraph as ig

    ig.set_random_number_generator(random.Random(random_state))  # noqa: S311
    try:
        yield
    finally:
        ig.set_random_number_generator(random)
