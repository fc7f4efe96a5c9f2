"""Decoders: a value for each gene from its own token, and from the cell alone."""

from cellfm.engines import Array, Operations, Weights
from cellfm.nn.embedding import LEAKY_SLOPE
from cellfm.nn.linear import linear


def decode_genes(xp: Operations, p: Weights, tokens: Array) -> Array:
    """``W2 LeakyReLU(W1 token)``: (c, s, d) to (c, s)."""
    return linear(xp, p["output"], gene_features(xp, p, tokens))[..., 0]


def decode_cell(xp: Operations, p: Weights, genes: Array, cls: Array) -> Array:
    """``sigmoid(W E[g]) . cls``: the value of each gene from the cell's embedding alone, (c, s).

    `genes` (c, s, d) are rows of the gene table, `cls` (c, d) the CLS token of the chunk's cell.
    """
    return xp.matmul(xp.sigmoid(linear(xp, p["inner"], genes)), cls[..., None])[..., 0]


def expressed_logits(
    xp: Operations, gene_decoder: Weights, cell_decoder: Weights, tokens: Array, genes: Array, cls: Array
) -> tuple[Array, Array]:
    """Logits of whether genes are expressed at all, (c, s), from their tokens and from the cell (zero modelling)."""
    by_gene = linear(xp, gene_decoder["expressed"], gene_features(xp, gene_decoder, tokens))[..., 0]
    by_cell = xp.matmul(xp.sigmoid(linear(xp, cell_decoder["expressed"], genes)), cls[..., None])[..., 0]
    return by_gene, by_cell


def gene_features(xp: Operations, p: Weights, tokens: Array) -> Array:
    return xp.leaky_relu(linear(xp, p["inner"], tokens), LEAKY_SLOPE)
