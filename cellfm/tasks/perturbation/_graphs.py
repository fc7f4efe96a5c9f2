"""Graphs of genes: genes that are expressed together, and genes that share terms of Gene Ontology."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

N_NEIGHBOURS = 20
"""Neighbours of a gene, not counting itself."""
MIN_CORRELATION = 0.4
MIN_JACCARD = 0.1
BLOCK = 1024
"""Number of genes that are compared with all others at once."""


@dataclass(frozen=True)
class Graph:
    """Neighbours of each gene, itself first. A gene with fewer neighbours has itself in their place, with weight 0."""

    neighbours: np.ndarray
    """(n_genes, k) int32."""
    weights: np.ndarray
    """(n_genes, k) float32; the weights of a gene add up to 1."""

    def hop(self, x: np.ndarray) -> np.ndarray:
        """Weighted means of the rows of `x` (n_genes, d) over the neighbours."""
        return np.einsum("gk,gkd->gd", self.weights, x[self.neighbours]).astype(np.float32)


def coexpression_graph(
    values: np.ndarray | sp.spmatrix, *, n_neighbours: int = N_NEIGHBOURS, min_correlation: float = MIN_CORRELATION
) -> Graph:
    """Genes with the largest absolute Pearson correlation above `min_correlation`.

    Parameters
    ----------
    values
        (n_cells, n_genes) log-normalised expression of training cells. Constant genes have no neighbours.
    """
    dense = values if isinstance(values, np.ndarray) else values.toarray()
    z = dense - dense.mean(0, dtype=np.float64)
    norm = np.sqrt((z**2).sum(0))
    z = (z / np.where(norm > 0, norm, 1)).astype(np.float32)

    def block(span: slice) -> np.ndarray:
        return np.abs(z[:, span].T @ z)

    return _nearest(block, z.shape[1], n_neighbours, min_correlation)


def term_graph(
    terms: Mapping[str, Sequence[str]],
    genes: Sequence[str],
    embedding: np.ndarray | None = None,
    *,
    n_neighbours: int = N_NEIGHBOURS,
    min_jaccard: float = MIN_JACCARD,
) -> Graph:
    """Genes whose sets of terms overlap most, by Jaccard index above `min_jaccard`.

    Parameters
    ----------
    terms
        Genes of each term, as `read_gene_sets` gives them.
    genes
        The genes of the graph.
    embedding
        (n_genes, d) vectors from which genes without terms take their neighbours (cosine above 0). Genes whose vector
        is NaN or zero have no neighbours.
    """
    place = {gene: i for i, gene in enumerate(genes)}
    pairs = [(place[gene], j) for j, members in enumerate(terms.values()) for gene in set(members) if gene in place]
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    member = sp.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), (len(genes), len(terms)))
    size = np.asarray(member.sum(1)).ravel()

    def jaccard(span: slice) -> np.ndarray:
        shared = (member[span] @ member.T).toarray()
        return shared / np.maximum(size[span, None] + size[None] - shared, 1)

    graph = _nearest(jaccard, len(genes), n_neighbours, min_jaccard)
    if embedding is None:
        return graph
    usable = np.isfinite(embedding).all(1)
    z = np.where(usable[:, None], embedding, 0)
    z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)

    def cosine(span: slice) -> np.ndarray:
        return z[span] @ z.T

    by_embedding = _nearest(cosine, len(genes), n_neighbours, 0.0)
    without_terms = size == 0
    neighbours, weights = graph.neighbours.copy(), graph.weights.copy()
    neighbours[without_terms] = by_embedding.neighbours[without_terms]
    weights[without_terms] = by_embedding.weights[without_terms]
    return Graph(neighbours, weights)


def _nearest(similarity: Callable[[slice], np.ndarray], n_genes: int, n_neighbours: int, threshold: float) -> Graph:
    """The graph of the most similar genes; `similarity` returns the rows of the matrix for a slice of genes."""
    k = min(n_neighbours, n_genes - 1)
    neighbours = np.repeat(np.arange(n_genes, dtype=np.int32)[:, None], k + 1, axis=1)
    weights = np.zeros((n_genes, k + 1), np.float32)
    weights[:, 0] = 1
    for start in range(0, n_genes, BLOCK):
        span = slice(start, min(start + BLOCK, n_genes))
        block = np.asarray(similarity(span), np.float64)
        rows = np.arange(len(block))[:, None]
        block[rows[:, 0], np.arange(n_genes)[span]] = -np.inf
        order = np.argsort(-block, axis=1, kind="stable")[:, :k]
        nearest = block[rows, order]
        kept = nearest > threshold
        neighbours[span, 1:] = np.where(kept, order, neighbours[span, :1])
        weights[span, 1:] = np.where(kept, nearest, 0)
    return Graph(neighbours, weights / weights.sum(1, keepdims=True))
