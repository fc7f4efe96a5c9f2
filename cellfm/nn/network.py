"""CellFM from tokens to embeddings and predicted expression: the only definition of the network, top-down."""

from cellfm.config import ModelConfig
from cellfm.engines import Array, Operations, Weights
from cellfm.nn.contributions import contributions
from cellfm.nn.decoders import decode_cell, decode_genes
from cellfm.nn.embedding import embed_tokens, gene_rows
from cellfm.nn.eretnet import Dropout, cls_layer, eretnet, layer, layer_norm
from cellfm.nn.layout import Layout, cls_of, to_chunks, value_scale
from cellfm.nn.linear import linear


def network(
    xp: Operations,
    config: ModelConfig,
    p: Weights,
    values: Array,
    visible: Array,
    layout: Layout,
    dropout: Dropout = None,
) -> tuple[Array, Array, Array, Array]:
    """Run the network.

    Parameters
    ----------
    p
        Weights: ``embed``, ``backbone``, ``gene_decoder``, ``cell_decoder``.
    values
        (c, s) float32: normalised expression; ignored at CLS and padding.
    visible
        (c, s) float32: 1 for visible values, 0 for hidden ones. CLS is visible.
    dropout
        Keys (2 n_layers,) int32 and `dropout_plan`; None for no dropout.

    Returns
    -------
    cell (b, d), the CLS token; tokens (c, s, d) in their context, of no meaning at padding; expression (c, s) read from
    each gene's token, and from the cell.
    """
    genes = gene_rows(xp, p["embed"], layout[0])  # once: each gradient of the table is as large as the table
    tokens = embed_tokens(xp, config, p["embed"], genes, values, visible, layout)
    tokens = eretnet(xp, config, p["backbone"], tokens, visible, layout, dropout)
    cell = cls_of(xp, tokens, layout)
    cell_wise = decode_cell(xp, p["cell_decoder"], genes, to_chunks(xp, cell, layout))
    return cell, tokens, decode_genes(xp, p["gene_decoder"], tokens), cell_wise


def embed_cells(
    xp: Operations, config: ModelConfig, p: Weights, values: Array, layout: Layout, dropout: Dropout = None
) -> Array:
    """CLS of each cell, (b, d), with all values visible.

    In the published form without dropout only CLS passes the last layer, which is exact and needs less work.
    """
    mask = layout[1]
    if dropout is not None or config.norm != "deepnorm" or config.retention != "linear":
        return network(xp, config, p, values, mask, layout, dropout)[0]
    layers = p["backbone"]
    x, keys, scale = tokens_below(xp, config, p, values, layout, config.n_layers - 1)
    return cls_layer(xp, config, layers[config.n_layers - 1], x, keys, scale, layout)


def queries_and_keys(
    xp: Operations, config: ModelConfig, p: Weights, values: Array, layout: Layout, n: int
) -> tuple[Array, Array, Array]:
    """Queries and keys of layer `n`: queries of CLS, (b, d), queries and keys of all tokens, (c, s, d).

    Linear attention has no softmax map: the score from token i to token j is ``Q_i . K_j`` in each head, both not
    negative.
    """
    x, p_layer, _ = attention_inputs(xp, config, p, values, layout, n)
    query = xp.relu(linear(xp, p_layer["query"], x))
    return cls_of(xp, query, layout), query, xp.relu(linear(xp, p_layer["key"], x))


def cls_contributions(
    xp: Operations, config: ModelConfig, p: Weights, values: Array, layout: Layout, directions: Array, n: int
) -> tuple[Array, Array]:
    """Contributions of CLS, (b, m), and of each token, (c, s, m), in layer `n` along directions (m, d)."""
    x, p_layer, scale = attention_inputs(xp, config, p, values, layout, n)
    cls = cls_of(xp, x, layout)
    query, gate = linear(xp, p_layer["query"], cls), linear(xp, p_layer["gate"], cls)
    key, value = linear(xp, p_layer["key"], x), linear(xp, p_layer["value"], x)
    readout = xp.product(directions, p_layer["output"]["weight"])
    found = contributions(xp, config, query, gate, key, value, readout, scale / config.d_head, layout)
    return cls_of(xp, found, layout), found


def attention_inputs(
    xp: Operations, config: ModelConfig, p: Weights, values: Array, layout: Layout, n: int
) -> tuple[Array, Weights, Array]:
    """Inputs of the attention of layer `n`: tokens (c, s, d), weights, and the value scale (c, 1, 1)."""
    x, _, scale = tokens_below(xp, config, p, values, layout, n)
    p_layer = p["backbone"][n]
    if config.norm == "prenorm":
        x = layer_norm(xp, p_layer["norm1"], x)
    return x, p_layer["attention"], scale


def tokens_below(
    xp: Operations, config: ModelConfig, p: Weights, values: Array, layout: Layout, n: int
) -> tuple[Array, Array, Array]:
    """Tokens before layer `n`, (c, s, d), all values visible, and the key mask and value scale of any layer."""
    mask = layout[1]
    keys, scale = mask[..., None], value_scale(xp, layout)
    genes = gene_rows(xp, p["embed"], layout[0])
    x = embed_tokens(xp, config, p["embed"], genes, values, mask, layout)

    def one(x: Array, p_layer: Weights, keys: Array) -> Array:
        return layer(xp, config, p_layer, x, keys, scale, layout, None)

    return xp.layers(one, x, p["backbone"][:n], (keys,) * n), keys, scale
