"""Tokens: a gene's identity plus its expression value (paper, Methods, "Embedding")."""

from cellfm.config import ModelConfig
from cellfm.engines import Array, Operations, Weights
from cellfm.nn.layout import Layout, is_gene
from cellfm.nn.linear import linear

LEAKY_SLOPE = 0.2


def embed_values(xp: Operations, p: Weights, values: Array, wanted: Array) -> Array:
    """A scalar as a soft choice among the rows of a table: ``Wt softmax(W3 v + a v)``, ``v = LeakyReLU(W1 x)``.

    (c, s) to (c, s, d): zero where `wanted` (c, s) is 0.
    """
    weight = p["expand"]["weight"]
    expanded = xp.leaky_relu(values[..., None] * weight.reshape((-1,)), LEAKY_SLOPE)  # (c, s, w)
    choice = xp.softmax(linear(xp, p["mix"], expanded) + p["skip"] * expanded)  # (c, s, w)
    return linear(xp, p["table"], choice * wanted[..., None])


def gene_rows(xp: Operations, p: Weights, gene_ids: Array) -> Array:
    """Rows of the gene table, (c, s, d). Row 0 is padding and stays zero."""
    return xp.take(p["gene"], xp.maximum(gene_ids, 0))


def embed_tokens(
    xp: Operations, config: ModelConfig, p: Weights, genes: Array, values: Array, visible: Array, layout: Layout
) -> Array:
    """Rows of the gene table (c, s, d) and values (c, s) to tokens (c, s, d).

    Hidden values (`visible` 0) are replaced by one learned vector; with zero modelling zeros have a vector, too.
    """
    gene_ids, mask, _, _ = layout
    gene = is_gene(xp, layout)  # (c, s)
    cls, hidden, shown = mask * xp.float32(gene_ids == 0), gene * (1 - visible), gene * visible
    zero = shown * xp.float32(values == 0) if config.zero_modelling else 0 * shown
    # Learned vectors are placed by one product, whose gradient is one, too: sums over all tokens are slow.
    places = xp.stack((cls, hidden, zero), -1)  # (c, s, 3)
    vectors = xp.concat((p["cls"], p["hidden"], p["zero"]), 1)[0]  # (3, d)
    placed = xp.matmul(places.reshape((-1, 3)), vectors).reshape(genes.shape)
    tokens = genes * gene[..., None] + embed_values(xp, p["value"], values, shown - zero) + placed
    if config.depth_tokens:
        tokens = tokens + embed_depths(xp, p, values, gene_ids)
    return tokens


def embed_depths(xp: Operations, p: Weights, values: Array, gene_ids: Array) -> Array:
    """The tokens of depth before and after thinning, (c, s, d), zero elsewhere."""
    is_depth = xp.float32(gene_ids < 0)  # (c, s)
    which = xp.take(p["depth"], xp.maximum(-1 - gene_ids, 0))
    return which * is_depth[..., None] + embed_values(xp, p["depth_value"], values, is_depth)
