"""The network for inference: the same numbers with less work, from weights that are rearranged once.

- Values are never negative, which makes the LeakyReLU of the value embedding linear in them, and its first two layers
  one vector.
- Projections of the same tokens are one product; layers above the last active one are only their norms.
- CLS alone passes the last layer, and there tokens are weighed before they become values.
- Where only one layer is active, its query is the same for all cells, and its keys are tables over genes and values.
- The first layer's products of wide networks can be tables over genes, values and CLS (`precompute_tables`).

For the published form without zero modelling and depth tokens; tests hold it to `cellfm.nn.network`.
"""

from typing import Any

import numpy as np

from cellfm.config import ModelConfig
from cellfm.engines import Array, Operations, Weights
from cellfm.engines.operations import RMS_FLOOR
from cellfm.nn.attention import join_heads, split_heads
from cellfm.nn.contributions import contributions
from cellfm.nn.embedding import LEAKY_SLOPE
from cellfm.nn.layout import Layout, cls_of, is_gene, sum_by_cell, to_chunks, value_scale
from cellfm.nn.parameters import Weights as FlatWeights
from cellfm.nn.parameters import merged_weights, n_active_layers

STACKED_FROM = 5
"""Number of layers from which their weights are stacked, so that an engine compiles a single layer."""
_WIDE = 512
_MIN_SAVED = 0.1
_MAX_DISTINCT = 0.25


def has_short_form(config: ModelConfig) -> bool:
    """Whether this module supports a network."""
    plain = config.is_published_form and config.feed_forward == "sglu"
    return plain and not (config.depth_tokens or config.zero_modelling)


def arrange(config: ModelConfig, weights: FlatWeights, dtype: Any = np.float32, *, stack: bool = True) -> Weights:
    """Weights in the form of the functions below: matrices as (in, out) in `dtype`, many layers stacked on request."""
    weights = merged_weights(weights)
    expanded = weights["embed.value.expand.weight"][:, 0]
    expanded = np.where(expanded >= 0, expanded, LEAKY_SLOPE * expanded)

    def matrix(*names: str) -> np.ndarray:
        return np.concatenate([weights[f"{name}.weight"].T for name in names], 1).astype(dtype)

    def of_layer(i: int) -> Weights:
        name = f"backbone.layers.{i}"
        joined = {
            "query_gate": ("attention.query", "attention.gate"),
            "key_value": ("attention.key", "attention.value"),
            "output": ("attention.output",),
            "glu": ("glu.gate", "glu.value"),
            "glu_output": ("glu.output",),
        }
        norms = {f"norm{n}": {part: weights[f"{name}.norm{n}.{part}"] for part in ("gamma", "beta")} for n in (1, 2)}
        return {to: matrix(*(f"{name}.{part}" for part in parts)) for to, parts in joined.items()} | norms

    layers = [of_layer(i) for i in range(config.n_layers)]
    learned = tables_of_learned_cls(config, weights) if n_active_layers(config, weights) == 1 else None
    return ({} if learned is None else {"learned_cls": learned}) | {
        "gene": weights["embed.gene"],
        "cls": weights["embed.cls"].reshape(-1),
        "value": weights["embed.value.mix.weight"] @ expanded + weights["embed.value.skip"][0, 0] * expanded,
        "value_table": matrix("embed.value.table"),
        "below": _stacked(layers[:-1]) if stack else layers[:-1],
        "last": layers[-1],
        "gene_decoder": {"inner": matrix("gene_decoder.inner"), "output": matrix("gene_decoder.output")},
        "cell_decoder": matrix("cell_decoder.inner"),
    }


def for_cells(config: ModelConfig, weights: FlatWeights, arranged: Weights) -> Weights:
    """The weights for `encode_cells`: layers above the last active one are reduced to their norms."""
    n_active = n_active_layers(config, merged_weights(weights))
    layers = [_layer_at(arranged, i, config.n_layers) for i in range(n_active - 1, config.n_layers)]
    below = arranged["below"]
    if not isinstance(below, dict):
        below = below[: n_active - 1]
    elif n_active < config.n_layers:
        below = _map(lambda stacked: stacked[: n_active - 1], below)
    inactive = []
    for layer in layers[1:]:
        inactive += [layer["norm1"], layer["norm2"]]
    names = ("gene", "cls", "value", "value_table")
    kept = {name: arranged[name] for name in (*names, "learned_cls") if name in arranged}
    return kept | {"below": below, "last": layers[0], "inactive": tuple(inactive)}


def tables_of_learned_cls(config: ModelConfig, weights: FlatWeights) -> Weights | None:
    """Keys and values of the only active layer as tables over genes, values and CLS, and how strongly each head reads.

    The query of all cells is that of the learned CLS vector: keys that it does not read are left out, and equal keys
    are one. None where so many are left that tables save no time.
    """
    name, cls = "backbone.layers.0.attention", weights["embed.cls"].reshape(-1)
    by_head = (-1, config.n_heads, config.d_head)
    query = np.maximum(weights[f"{name}.query.weight"].astype(float) @ cls, 0)
    asked = np.flatnonzero(query)
    distinct, which = np.unique(weights[f"{name}.key.weight"][asked], axis=0, return_inverse=True)
    if len(distinct) > _MAX_DISTINCT * config.d_model:
        return None
    strength = np.zeros((len(distinct), config.n_heads))
    np.add.at(strength, (which.reshape(-1), asked // config.d_head), query[asked])
    value = weights[f"{name}.value.weight"].T
    table = weights["embed.value.table.weight"].T
    return {
        "strength": strength.astype(distinct.dtype),
        "keys": {"gene": weights["embed.gene"] @ distinct.T, "value": table @ distinct.T, "cls": distinct @ cls},
        "values": {
            "gene": weights["embed.gene"] @ value,
            "value": np.ascontiguousarray((table @ value).reshape(by_head).swapaxes(0, 1)),  # (h, w, k)
            "cls": (cls @ value).reshape(by_head)[0],
        },
    }


def tokens_that_pay(config: ModelConfig, n_layers: int, *, bytes_of_a_number: int, max_gb: float) -> float:
    """Number of tokens from which tables over genes pay off for the products of the first of `n_layers` layers.

    A table takes ``4 d^2`` products per gene, and saves ``4 d (d - w)`` per token. Infinite if the table is larger than
    `max_gb`, if other layers are most of the work, and for narrow networks, where a table saves nothing.
    """
    d, w = config.d_model, config.d_value
    saved = 4 * (d - w) / (8 * d * (n_layers - 1) + d)  # of all products
    size = 4 * d * config.n_gene_rows * bytes_of_a_number / 1e9
    if n_layers < 2 or d < _WIDE or saved < _MIN_SAVED or size > max_gb:
        return np.inf
    return config.n_gene_rows * d / (d - w)


def precompute_tables(xp: Operations, weights: Weights) -> Weights:
    """The first layer's keys, values, queries and gates as tables over genes, values and CLS.

    ``x W = (E W)[gene] + (Wt W) choice``, which saves the widest products of the layer.
    """
    first = _map(lambda w: w[0], weights["below"]) if isinstance(weights["below"], dict) else weights["below"][0]
    joined = xp.concat((first["key_value"], first["query_gate"]), 1)
    return {
        "gene": xp.matmul(weights["gene"].astype(joined.dtype), joined),
        "value": xp.matmul(weights["value_table"], joined),
        "cls": xp.matmul(weights["cls"][None].astype(joined.dtype), joined)[0],
    }


def with_tables(weights: Weights, tables: Weights) -> Weights:
    """The weights of `for_cells` with the tables of `precompute_tables` instead of the weights that they replace."""
    stacked = isinstance(weights["below"], dict)
    first = _map(lambda w: w[0], weights["below"]) if stacked else weights["below"][0]
    others = _map(lambda w: w[1:], weights["below"]) if stacked else weights["below"][1:]
    first = {name: array for name, array in first.items() if name not in ("key_value", "query_gate")}
    return weights | {"first": first, "below": others, "tables": tables}


def encode_cells(xp: Operations, config: ModelConfig, weights: Weights, values: Array, layout: Layout) -> Array:
    """CLS of each cell, (b, d): in the last layer it reads all tokens, but nothing else is computed."""
    last = weights["last"]
    if "learned_cls" in weights:
        asked = weights_of_learned_cls(xp, config, weights, values, layout)
        read = read_by_learned_cls(xp, weights, asked, layout)
        cls = xp.broadcast_to(weights["cls"], (read.shape[0], 1, config.d_model))
        gate = xp.split(xp.product(cls, last["query_gate"]), 2)[1]
    else:
        x, scale = tokens_below(xp, config, weights, values, layout)
        cls = cls_of(xp, x, layout)[:, None]
        query, gate = xp.split(xp.product(cls, last["query_gate"]), 2)
        read = values_of(
            xp, config, last["key_value"], seen_by_cls(xp, config, last["key_value"], x, query, scale, layout)
        )
    cls = join(xp, config, last, cls, read, gate)
    for norm in weights["inactive"]:
        cls = xp.layer_norm(alpha(config) * cls, norm["gamma"], norm["beta"])
    return cls[:, 0]


def encode_all(
    xp: Operations, config: ModelConfig, weights: Weights, values: Array, layout: Layout
) -> tuple[Array, Array, Array, Array]:
    """CLS, all tokens, and the output of both decoders, as `cellfm.nn.network.network` returns them."""
    x, scale = tokens_below(xp, config, weights, values, layout)
    tokens = full_layer(xp, config, weights["last"], x, scale, layout)
    cell = cls_of(xp, tokens, layout)
    decoder = weights["gene_decoder"]
    gene_wise = xp.product(xp.leaky_relu(xp.product(tokens, decoder["inner"]), LEAKY_SLOPE), decoder["output"])
    of_gene = xp.sigmoid(xp.product(xp.take(weights["gene"], layout[0]), weights["cell_decoder"]))
    cell_wise = xp.matmul(of_gene, to_chunks(xp, cell, layout)[..., None])
    return cell, tokens, gene_wise[..., 0], cell_wise[..., 0]


def queries_and_keys(
    xp: Operations, config: ModelConfig, weights: Weights, values: Array, layout: Layout, n: int
) -> tuple[Array, Array, Array]:
    """Queries of CLS, queries and keys of all tokens, in layer `n`."""
    x, p_layer, _ = tokens_and_layer(xp, config, weights, values, layout, n)
    query = xp.relu(xp.split(xp.product(x, p_layer["query_gate"]), 2)[0])
    key = xp.relu(xp.split(xp.product(x, p_layer["key_value"]), 2)[0])
    return cls_of(xp, query, layout), query, key


def cls_contributions(
    xp: Operations, config: ModelConfig, weights: Weights, values: Array, layout: Layout, directions: Array, n: int
) -> tuple[Array, Array]:
    """Contributions of CLS, (b, m), and of each token, (c, s, m), in layer `n` along directions (m, d)."""
    if "learned_cls" in weights and n == 0:
        found = contributions_to_learned_cls(xp, config, weights, values, layout, directions)
        return cls_of(xp, found, layout), found
    x, p_layer, scale = tokens_and_layer(xp, config, weights, values, layout, n)
    query, gate = xp.split(xp.product(cls_of(xp, x, layout), p_layer["query_gate"]), 2)
    key, value = xp.split(xp.product(x, p_layer["key_value"]), 2)
    readout = xp.linear(directions, p_layer["output"])
    found = contributions(xp, config, query, gate, key, value, readout, scale, layout)
    return cls_of(xp, found, layout), found


def tokens_and_layer(
    xp: Operations, config: ModelConfig, weights: Weights, values: Array, layout: Layout, n: int
) -> tuple[Array, Weights, Array]:
    """Tokens before layer `n`, (c, s, d), the weights of the layer, and the scale of its products, (c, 1, 1)."""
    x, scale = embed(xp, weights, values, layout), chunk_scale(xp, config, layout)
    for i in range(n):
        x = full_layer(xp, config, _layer_at(weights, i, config.n_layers), x, scale, layout)
    return x, _layer_at(weights, n, config.n_layers), scale


def tokens_below(
    xp: Operations, config: ModelConfig, weights: Weights, values: Array, layout: Layout
) -> tuple[Array, Array]:
    """Tokens before the last layer, (c, s, d), and the scale of each chunk's products, (c, 1, 1)."""
    x, scale = embed(xp, weights, values, layout), chunk_scale(xp, config, layout)
    if "tables" in weights:
        products = sum_of_rows(xp, weights["tables"], weights["value"], values, layout)
        key_value, query_gate = xp.split(products, 2)
        x = attend(xp, config, weights["first"], x, key_value, query_gate, scale, layout)

    def one(x: Array, p_layer: Weights, extra: Any) -> Array:
        return full_layer(xp, config, p_layer, x, scale, layout)

    below = weights["below"]
    n = below["output"].shape[0] if isinstance(below, dict) else len(below)
    return xp.layers(one, x, below, (0,) * n) if n else x, scale


def embed(xp: Operations, weights: Weights, values: Array, layout: Layout) -> Array:
    """Tokens, (c, s, d)."""
    tables = {"gene": weights["gene"], "value": weights["value_table"], "cls": weights["cls"]}
    return sum_of_rows(xp, tables, weights["value"], values, layout)


def sum_of_rows(xp: Operations, tables: Weights, value: Array, values: Array, layout: Layout) -> Array:
    """The sum of the table rows of a token's gene and value, or the row of CLS."""
    gene_ids, mask, _, _ = layout
    choice = xp.softmax(values[..., None] * value) * is_gene(xp, layout)[..., None]
    cls = (mask * (gene_ids == 0))[..., None] * tables["cls"]
    return xp.take(tables["gene"], gene_ids) + xp.product(choice, tables["value"]) + cls  # row 0 of genes is zero


def chunk_scale(xp: Operations, config: ModelConfig, layout: Layout) -> Array:
    """(c, 1, 1)."""
    return value_scale(xp, layout) / config.d_head


def full_layer(xp: Operations, config: ModelConfig, p_layer: Weights, x: Array, scale: Array, layout: Layout) -> Array:
    """New tokens for all, (c, s, d)."""
    key_value, query_gate = xp.product(x, p_layer["key_value"]), xp.product(x, p_layer["query_gate"])
    return attend(xp, config, p_layer, x, key_value, query_gate, scale, layout)


def attend(
    xp: Operations,
    config: ModelConfig,
    p_layer: Weights,
    x: Array,
    key_value: Array,
    query_gate: Array,
    scale: Array,
    layout: Layout,
) -> Array:
    """The rest of the layer after its products."""
    key, value = xp.split(key_value, 2)
    query, gate = xp.split(query_gate, 2)
    key = split_heads(config, xp.relu(key) * layout[1][..., None])  # (c, h, s, k)
    state = xp.matmul(key, split_heads(config, value), transpose_a=True) * scale[..., None]
    state = to_chunks(xp, sum_by_cell(xp, state, layout), layout)  # (c, h, k, k)
    read = xp.matmul(split_heads(config, xp.relu(query)), state)  # (c, h, s, k)
    return join(xp, config, p_layer, x, read, gate)


def seen_by_cls(
    xp: Operations, config: ModelConfig, key_value: Array, x: Array, query: Array, scale: Array, layout: Layout
) -> Array:
    """``q K^T x``, (b, h, d): for CLS alone, tokens are weighted first, and only their sum is projected."""
    h, k = config.n_heads, config.d_head
    key = xp.relu(xp.product(x, xp.split(key_value, 2)[0])).reshape((*x.shape[:2], h, k))
    query = to_chunks(xp, xp.relu(query).reshape((-1, 1, h, k)), layout)
    weight = (key * query).sum(-1) * (layout[1][..., None] * scale)  # (c, s, h)
    return sum_by_cell(xp, xp.matmul(weight, x, transpose_a=True), layout)


def read_by_learned_cls(xp: Operations, weights: Weights, asked: tuple[Array, Array, Array], layout: Layout) -> Array:
    """``q K^T V`` of CLS, (b, h, 1, k), by the tables of `tables_of_learned_cls`, from `weights_of_learned_cls`."""
    weight, choice, is_cls = asked
    tables = weights["learned_cls"]["values"]
    chosen = sum_by_cell(xp, xp.matmul(weight, choice, transpose_a=True), layout)  # (b, h, w)
    chosen = xp.matmul(chosen.swapaxes(0, 1), tables["value"]).swapaxes(0, 1)
    genes = xp.weighted_rows(tables["gene"], layout[0], weight)  # (c, h, k); row 0 is zero
    of_cls = (weight * is_cls[..., None]).sum(1)[..., None] * tables["cls"]
    return (chosen + sum_by_cell(xp, genes + of_cls, layout))[:, :, None]


def weights_of_learned_cls(
    xp: Operations, config: ModelConfig, weights: Weights, values: Array, layout: Layout
) -> tuple[Array, Array, Array]:
    """``q . k`` of each token, (c, s, h), its choice among values, (c, s, w), and where CLS is, (c, s)."""
    gene_ids, mask, _, _ = layout
    keys, is_cls = weights["learned_cls"]["keys"], mask * (gene_ids == 0)
    choice = xp.softmax(values[..., None] * weights["value"]) * is_gene(xp, layout)[..., None]
    key = exact_product(xp, choice, keys["value"]) + is_cls[..., None] * keys["cls"] + xp.take(keys["gene"], gene_ids)
    key = xp.relu(key) * (mask[..., None] * chunk_scale(xp, config, layout))
    return exact_product(xp, key, weights["learned_cls"]["strength"]), choice, is_cls


def contributions_to_learned_cls(
    xp: Operations, config: ModelConfig, weights: Weights, values: Array, layout: Layout, directions: Array
) -> Array:
    """`contributions`, (c, s, m), by the tables of `tables_of_learned_cls`: all cells share the gate of CLS."""
    p_layer, tables = _layer_at(weights, 0, config.n_layers), weights["learned_cls"]["values"]
    asked = weights_of_learned_cls(xp, config, weights, values, layout)
    weight, choice, is_cls = asked
    c, s, h = weight.shape
    gate = xp.silu(xp.split(xp.product(weights["cls"][None], p_layer["query_gate"]), 2)[1])
    along = (
        (xp.linear(directions, p_layer["output"]) * gate).reshape((-1, h, config.d_head)).swapaxes(0, 1)
    )  # (h, m, k)
    along = along.swapaxes(1, 2)  # (h, k, m)
    m = along.shape[2]
    genes = xp.take(tables["gene"], layout[0]).reshape((c * s, h, config.d_head)).swapaxes(0, 1)
    genes = xp.matmul(genes, along).swapaxes(0, 1).reshape((c, s, h, m))
    chosen = exact_product(xp, choice, xp.matmul(tables["value"], along).swapaxes(0, 1).reshape((-1, h * m)))
    of_cls = is_cls[..., None, None] * xp.matmul(tables["cls"][:, None], along)[:, 0]
    read = read_by_learned_cls(xp, weights, asked, layout)
    inv_rms = xp.rsqrt(xp.maximum((read * read).sum(-1) / config.d_head, RMS_FLOOR**2))  # (b, h, 1)
    weight = weight[..., None] * to_chunks(xp, inv_rms, layout)[:, None]
    return (weight * (genes + chosen.reshape((c, s, h, m)) + of_cls)).sum(2)


def exact_product(xp: Operations, x: Array, weight: Array) -> Array:
    """``x weight`` over the last axis, in float32 whatever the precision: the sums over a cell nearly cancel."""
    return xp.matmul(x.reshape((-1, x.shape[-1])), weight).reshape((*x.shape[:-1], weight.shape[-1]))


def values_of(xp: Operations, config: ModelConfig, key_value: Array, seen: Array) -> Array:
    """``seen Wv`` head by head, (b, h, 1, k)."""
    of_head = xp.split(key_value, 2)[1].reshape((-1, config.n_heads, config.d_head)).swapaxes(0, 1)  # (h, d, k)
    return xp.matmul(seen.swapaxes(0, 1), xp.float32(of_head)).swapaxes(0, 1)[:, :, None]


def join(xp: Operations, config: ModelConfig, p_layer: Weights, x: Array, read: Array, gate: Array) -> Array:
    """New tokens for `x` (r, m, d), from the output of their queries (r, h, m, k) and their gates (r, m, d)."""
    y = alpha(config) * x + xp.product(join_heads(xp.rms_norm(read)) * xp.silu(gate), p_layer["output"])
    y = xp.layer_norm(y, p_layer["norm1"]["gamma"], p_layer["norm1"]["beta"])
    gate, value = xp.split(xp.product(y, p_layer["glu"]), 2)
    y = alpha(config) * y + xp.product(gate * value, p_layer["glu_output"])
    return xp.layer_norm(y, p_layer["norm2"]["gamma"], p_layer["norm2"]["beta"])


def alpha(config: ModelConfig) -> float:
    """The factor of DeepNorm for a token."""
    return (2 * config.n_layers) ** 0.25


def _stacked(layers: list[Weights]) -> Any:
    return tuple(layers) if len(layers) < STACKED_FROM else _map(lambda *arrays: np.stack(arrays), *layers)


def _layer_at(arranged: Weights, i: int, n_layers: int) -> Weights:
    if i == n_layers - 1:
        return arranged["last"]
    below = arranged["below"]
    return _map(lambda stacked: stacked[i], below) if isinstance(below, dict) else below[i]


def _map(function: Any, *trees: Any) -> Any:
    if isinstance(trees[0], dict):
        return {name: _map(function, *(tree[name] for tree in trees)) for name in trees[0]}
    return function(*trees)
