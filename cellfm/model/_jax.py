"""The network in JAX, for use and not for training: NVIDIA GPUs and TPUs, for which MindSpore has no build, and CPUs.

`cellfm.nn` stays the definition; tests hold the two within 1e-5 of each other. Values are never negative, which makes
the LeakyReLU of the value embedding linear in them, and its first two layers one vector. Letters as in `nn._layout`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cellfm.config import ModelConfig
from cellfm.data import Chunks
from cellfm.model._parameters import Weights, merged_weights, n_open_layers
from cellfm.settings import settings

_LAYER_NORM_EPS = 1e-7
_RMS_FLOOR = 1e-12
_LEAKY_SLOPE = 0.2
_WIDE = 512
_LEAST_SPARED = 0.1

Tree = dict[str, Any]
Layout = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
"""gene_ids, mask, chunk_cell and cls_row, as in `nn._layout`."""


class JaxNetwork:
    """A network compiled by JAX, on its default device, or on the CPU where `cf.settings.device` says so."""

    def __init__(self, config: ModelConfig, weights: Weights, *, bfloat16: bool = False) -> None:
        device = jax.devices("cpu" if settings.device == "CPU" else None)[0]
        self.on_cpu = device.platform == "cpu"
        weights = merged_weights(config, weights)
        arranged = arrange(config, weights, jnp.bfloat16 if bfloat16 else jnp.float32)
        self._weights = jax.device_put(arranged, device)
        n_layers = n_open_layers(config, weights)
        self._for_cell = without_closed(self._weights, n_layers)
        pays = tokens_that_pay(config, n_layers, bytes_of_a_number=2 if bfloat16 else 4)
        self._n_tokens, self._least_tokens = 0, pays if self.on_cpu else np.inf
        shape = Shape(config, bfloat16=bfloat16)
        self._cell = jax.jit(partial(encode_cells, shape))
        self._all = jax.jit(partial(encode_all, shape))
        self._attend = jax.jit(partial(queries_and_keys, shape), static_argnames="layer")

    def expect(self, n_tokens: int) -> None:
        """Fold the first layer as soon as the tokens that have come, and those to come, pay for it."""
        self._n_tokens += n_tokens
        if self._least_tokens < self._n_tokens and "folded" not in self._for_cell:
            self._for_cell = fold(self._for_cell)

    def cell(self, chunks: Chunks) -> jax.Array:
        """CLS alone, (b, d)."""
        return self._cell(self._for_cell, chunks.values, _layout(chunks))

    def all(self, chunks: Chunks) -> dict[str, jax.Array]:
        """What `Outputs` holds, by name."""
        return self._all(self._weights, chunks.values, _layout(chunks))

    def attend(self, chunks: Chunks, layer: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries of CLS (b, d), queries and keys of tokens (c, s, d)."""
        return self._attend(self._weights, chunks.values, _layout(chunks), layer=layer)


class Shape:
    """What the functions below need to know when they are compiled."""

    def __init__(self, config: ModelConfig, *, bfloat16: bool) -> None:
        self.n_heads, self.d_head = config.n_heads, config.d_head
        self.alpha = (2 * config.n_layers) ** 0.25
        # Without it, GPUs round the factors of products to 10 bits.
        self.precision = lax.Precision.DEFAULT if bfloat16 else lax.Precision.HIGHEST

    def product(self, x: jax.Array, weight: jax.Array) -> jax.Array:
        """``x W`` in the type of the weight, summed in float32."""
        return jnp.dot(x.astype(weight.dtype), weight, precision=self.precision, preferred_element_type=jnp.float32)

    def heads(self, x: jax.Array) -> jax.Array:
        """(r, m, d) to (r, m, h, k)."""
        return x.reshape(*x.shape[:2], self.n_heads, self.d_head)


def arrange(config: ModelConfig, weights: Weights, kind: jnp.dtype) -> Tree:
    """Weights without adapters as the functions below take them: factors as (in, out), layers but the last stacked."""
    expanded = weights["embed.value.expand.weight"][:, 0]
    expanded = np.where(expanded >= 0, expanded, _LEAKY_SLOPE * expanded)

    def factor(*names: str) -> np.ndarray:
        return np.concatenate([weights[f"{name}.weight"].T for name in names], 1).astype(kind)

    def layer(i: int) -> Tree:
        name = f"backbone.layers.{i}"
        joined = {
            "query_gate": ("attention.query", "attention.gate"),
            "key_value": ("attention.key", "attention.value"),
            "output": ("attention.output",),
            "glu": ("glu.gate", "glu.value"),
            "glu_output": ("glu.output",),
        }
        norms = {f"norm{n}": [weights[f"{name}.norm{n}.{part}"] for part in ("gamma", "beta")] for n in (1, 2)}
        return {to: factor(*(f"{name}.{part}" for part in parts)) for to, parts in joined.items()} | norms

    layers = [layer(i) for i in range(config.n_layers)]
    return {
        "gene": weights["embed.gene"],
        "cls": weights["embed.cls"].reshape(-1),
        "value": weights["embed.value.mix.weight"] @ expanded + weights["embed.value.skip"][0, 0] * expanded,
        "value_table": factor("embed.value.table"),
        "layers": jax.tree.map(lambda *arrays: np.stack(arrays), *layers[:-1]) if layers[1:] else None,
        "last": layers[-1],
        "gene_decoder": [factor("gene_decoder.inner"), factor("gene_decoder.output")],
        "cell_decoder": factor("cell_decoder.inner"),
    }


def without_closed(weights: Tree, n_layers: int) -> Tree:
    """For CLS alone: of the layers above the first `n_layers`, whose gates are closed, only the norms are left."""
    stacked = weights["layers"]
    layers = [jax.tree.map(lambda s, i=i: s[i], stacked) for i in range(_n_stacked(weights))] + [weights["last"]]
    below = jax.tree.map(lambda s: s[: n_layers - 1], stacked) if n_layers > 1 else None
    closed = [layer[norm] for layer in layers[n_layers:] for norm in ("norm1", "norm2")]
    return weights | {"layers": below, "last": layers[n_layers - 1], "closed": closed}


def tokens_that_pay(config: ModelConfig, n_layers: int, *, bytes_of_a_number: int) -> float:
    """Tokens for which the products of the first of `n_layers` are worth a table with a row for each gene.

    A table takes ``4 d^2`` products a gene, and spares ``4 d (d - w)`` a token. Infinite where the table is larger than
    `cf.settings.folding_gb`, where other layers are most of the work, and in narrow networks, where it spares nothing.
    """
    d, w = config.d_model, config.d_value
    spared = 4 * (d - w) / (8 * d * (n_layers - 1) + d)  # of all products
    size = 4 * d * config.n_gene_rows * bytes_of_a_number / 1e9
    if n_layers < 2 or d < _WIDE or spared < _LEAST_SPARED or size > settings.folding_gb:
        return np.inf
    return config.n_gene_rows * d / (d - w)


def fold(weights: Tree) -> Tree:
    """The same with the first layer's keys, values, queries and gates as tables over genes, values and CLS.

    ``x W = (E W)[gene] + (Wt W) choice``, which spares the widest products of the layer.
    """
    first = jax.tree.map(lambda stacked: stacked[0], weights["layers"])
    joined = jnp.concatenate((first.pop("key_value"), first.pop("query_gate")), 1)

    def table(rows: jax.Array) -> jax.Array:
        return jnp.dot(rows.astype(joined.dtype), joined, precision=lax.Precision.HIGHEST)

    folded = {"gene": table(weights["gene"]), "value": table(weights["value_table"]), "cls": table(weights["cls"])}
    others = jax.tree.map(lambda stacked: stacked[1:], weights["layers"]) if _n_stacked(weights) > 1 else None
    return weights | {"first": first, "layers": others, "folded": folded}


def encode_cells(shape: Shape, weights: Tree, values: jax.Array, layout: Layout) -> jax.Array:
    """CLS of each cell, (b, d): in the last layer it reads all tokens, but nothing else is computed."""
    x, scale = _below_last(shape, weights, values, layout)
    cls, last = _cls(x, layout)[:, None], weights["last"]
    query_gate = shape.product(cls, last["query_gate"])
    found = _find_for_cls(shape, last["key_value"], x, jnp.split(query_gate, 2, -1)[0], scale, layout)
    cls = _join(shape, last, cls, found, query_gate)
    for norm in weights["closed"]:
        cls = _norm(shape.alpha * cls, norm)
    return cls[:, 0]


def _find_for_cls(
    shape: Shape, key_value: jax.Array, x: jax.Array, query: jax.Array, scale: jax.Array, layout: Layout
) -> jax.Array:
    """``(q K^T x) Wv``, (b, 1, h, k): for CLS alone, tokens are weighed first, and only their sum becomes values."""
    _, mask, chunk_cell, cls_row = layout
    of_key, of_value = jnp.split(key_value, 2, -1)
    key = shape.heads(jax.nn.relu(shape.product(x, of_key)))
    query = shape.heads(jax.nn.relu(query))[chunk_cell]
    weight = (key * query).sum(-1) * (mask * scale[:, None])[..., None]
    seen = jnp.einsum("csh,csd->chd", weight, x, precision=shape.precision)
    seen = jax.ops.segment_sum(seen, chunk_cell, len(cls_row))
    of_value = shape.heads(of_value[None])[0]
    return jnp.einsum("bhd,dhk->bhk", seen, of_value, precision=shape.precision)[:, None]


def encode_all(shape: Shape, weights: Tree, values: jax.Array, layout: Layout) -> dict[str, jax.Array]:
    """CLS, all tokens, and what both decoders read from them."""
    x, scale = _below_last(shape, weights, values, layout)
    tokens = _layer(shape, weights["last"], x, scale, layout)
    cell = _cls(tokens, layout)
    inner, outer = weights["gene_decoder"]
    hidden = jax.nn.leaky_relu(shape.product(tokens, inner), _LEAKY_SLOPE)
    says = jax.nn.sigmoid(shape.product(weights["gene"][layout[0]], weights["cell_decoder"]))
    cell_wise = jnp.einsum("csd,cd->cs", says, cell[layout[2]], precision=shape.precision)
    return {"cell": cell, "tokens": tokens, "gene_wise": shape.product(hidden, outer)[..., 0], "cell_wise": cell_wise}


def queries_and_keys(
    shape: Shape, weights: Tree, values: jax.Array, layout: Layout, *, layer: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries of CLS, queries and keys of all tokens, in one layer."""
    x, scale = _embed(shape, weights, values, layout), _scale(shape, layout)
    for i in range(layer):
        x = _layer(shape, jax.tree.map(lambda stacked, i=i: stacked[i], weights["layers"]), x, scale, layout)
    below = layer < _n_stacked(weights)
    own = jax.tree.map(lambda stacked: stacked[layer], weights["layers"]) if below else weights["last"]
    query = jax.nn.relu(jnp.split(shape.product(x, own["query_gate"]), 2, -1)[0])
    key = jax.nn.relu(jnp.split(shape.product(x, own["key_value"]), 2, -1)[0])
    return _cls(query, layout), query, key


def _n_stacked(weights: Tree) -> int:
    return 0 if weights["layers"] is None else len(weights["layers"]["output"])


def _below_last(shape: Shape, weights: Tree, values: jax.Array, layout: Layout) -> tuple[jax.Array, jax.Array]:
    """Tokens before the last layer, (c, s, d), and the scale of each chunk's products."""
    x, scale = _embed(shape, weights, values, layout), _scale(shape, layout)
    if "folded" in weights:
        products = _tokens(shape, weights["folded"], weights["value"], values, layout)
        key_value, query_gate = jnp.split(products, 2, -1)
        x = _attend(shape, weights["first"], x, key_value, query_gate, scale, layout)
    if weights["layers"] is not None:
        x, _ = lax.scan(lambda x, own: (_layer(shape, own, x, scale, layout), None), x, weights["layers"])
    return x, scale


def _embed(shape: Shape, weights: Tree, values: jax.Array, layout: Layout) -> jax.Array:
    tables = {"gene": weights["gene"], "value": weights["value_table"], "cls": weights["cls"]}
    return _tokens(shape, tables, weights["value"], values, layout)


def _tokens(shape: Shape, tables: Tree, choosing: jax.Array, values: jax.Array, layout: Layout) -> jax.Array:
    """The sum of what tables say of a token's gene, its value and, in place of both, of CLS."""
    gene_ids, mask, _, _ = layout
    choice = jax.nn.softmax(values[..., None] * choosing, -1) * (gene_ids > 0)[..., None]
    cls = (mask * (gene_ids == 0))[..., None] * tables["cls"]
    return tables["gene"][gene_ids] + shape.product(choice, tables["value"]) + cls  # row 0 of genes is zero


def _scale(shape: Shape, layout: Layout) -> jax.Array:
    gene_ids, _, chunk_cell, cls_row = layout
    n_genes = jax.ops.segment_sum((gene_ids > 0).sum(-1), chunk_cell, len(cls_row))
    return (lax.rsqrt(jnp.maximum(n_genes, 1).astype(jnp.float32)) / shape.d_head)[chunk_cell]


def _layer(shape: Shape, own: Tree, x: jax.Array, scale: jax.Array, layout: Layout) -> jax.Array:
    products = (shape.product(x, own[name]) for name in ("key_value", "query_gate"))
    return _attend(shape, own, x, *products, scale, layout)


def _attend(
    shape: Shape,
    own: Tree,
    x: jax.Array,
    key_value: jax.Array,
    query_gate: jax.Array,
    scale: jax.Array,
    layout: Layout,
) -> jax.Array:
    memory = _remember(shape, key_value, scale, layout)[layout[2]]
    query = shape.heads(jax.nn.relu(jnp.split(query_gate, 2, -1)[0]))
    found = jnp.einsum("rmhk,rhkj->rmhj", query, memory, precision=shape.precision)
    return _join(shape, own, x, found, query_gate)


def _remember(shape: Shape, key_value: jax.Array, scale: jax.Array, layout: Layout) -> jax.Array:
    """``K^T V`` of each cell, (b, h, k, k), from keys and values side by side."""
    _, mask, chunk_cell, cls_row = layout
    key, value = jnp.split(key_value, 2, -1)
    key = jax.nn.relu(key) * mask[..., None]
    each = jnp.einsum("cshk,cshj->chkj", shape.heads(key), shape.heads(value), precision=shape.precision)
    return jax.ops.segment_sum(each * scale[:, None, None, None], chunk_cell, len(cls_row))


def _join(shape: Shape, own: Tree, x: jax.Array, found: jax.Array, query_gate: jax.Array) -> jax.Array:
    """New tokens for `x` (r, m, d), by what their queries found (r, m, h, k) and their gates."""
    found *= lax.rsqrt(jnp.maximum((found * found).mean(-1, keepdims=True), _RMS_FLOOR**2))
    gate = jnp.split(query_gate, 2, -1)[1]
    y = shape.alpha * x + shape.product(found.reshape(x.shape) * jax.nn.silu(gate), own["output"])
    y = _norm(y, own["norm1"])
    gate, value = jnp.split(shape.product(y, own["glu"]), 2, -1)
    return _norm(shape.alpha * y + shape.product(gate * value, own["glu_output"]), own["norm2"])


def _norm(x: jax.Array, affine: list[jax.Array]) -> jax.Array:
    gamma, beta = affine
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred * centred).mean(-1, keepdims=True) + _LAYER_NORM_EPS) * gamma + beta


def _cls(x: jax.Array, layout: Layout) -> jax.Array:
    return x.reshape(-1, x.shape[-1])[layout[3]]


def _layout(chunks: Chunks) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return chunks.gene_ids, chunks.mask, chunks.chunk_cell, chunks.cls_row
