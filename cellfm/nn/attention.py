"""Gated multi-head attention in its linear form (paper, Methods, "Gated multi-head attention"), and RetNet's."""

from cellfm.config import ModelConfig
from cellfm.engines import Array, Operations, Weights
from cellfm.nn.layout import Layout, sum_by_cell, to_chunks
from cellfm.nn.linear import linear


def attention(
    xp: Operations, config: ModelConfig, p: Weights, x: Array, key_mask: Array, value_scale: Array, layout: Layout
) -> Array:
    """The attention output of all tokens `x` (c, s, d) of their cells, (c, s, d); arguments as for
    `key_value_state`.
    """
    if config.retention == "decay":
        return decay_attention(xp, config, p, x, key_mask, value_scale)
    state = key_value_state(xp, config, p, x, key_mask, value_scale, layout)
    return attend(xp, config, p, x, to_chunks(xp, state, layout))


def key_value_state(
    xp: Operations, config: ModelConfig, p: Weights, x: Array, key_mask: Array, value_scale: Array, layout: Layout
) -> Array:
    """``K^T V`` of each cell, (b, h, k, k), from its tokens `x`, (c, s, d): linear in the number of tokens.

    `key_mask` (c, s, 1) is 1 where a token may be read. `value_scale` (c, 1, 1), one over the root of the cell's
    number of genes, cancels in the norm like the scales of Q and K; they only keep the sums small. All
    three scale ``K^T V``, which has fewer elements than Q, K and V.
    """
    key = split_heads(config, xp.relu(linear(xp, p["key"], x)) * key_mask)  # (c, h, s, k)
    value = split_heads(config, linear(xp, p["value"], x))  # (c, h, s, k)
    scale = (value_scale / config.d_head)[..., None]  # (c, 1, 1, 1)
    return sum_by_cell(xp, xp.matmul(key, value, transpose_a=True) * scale, layout)


def attend(xp: Operations, config: ModelConfig, p: Weights, readers: Array, state: Array) -> Array:
    """The attention output of `readers` (r, m, d) for the `state` (r, h, k, k) of their cell, (r, m, d)."""
    query = split_heads(config, xp.relu(linear(xp, p["query"], readers)))  # (r, h, m, k)
    read = join_heads(xp.rms_norm(xp.matmul(query, state)))
    return linear(xp, p["output"], read * xp.silu(linear(xp, p["gate"], readers)))


def decay_attention(
    xp: Operations, config: ModelConfig, p: Weights, x: Array, key_mask: Array, value_scale: Array
) -> Array:
    """RetNet's parallel form: ``(Q K^T * D) V``, where `D` decays with the distance of two tokens in the sequence.

    The genes of a cell have no order of their own, so the order of their ids stands in for it, and they are read in
    both directions. Needs the quadratic table of all pairs, hence all tokens of a cell in one chunk (an ablation of the
    paper, Results, "ERetNet"; Fig. S21).
    """
    query = split_heads(config, xp.relu(linear(xp, p["query"], x)))  # (c, h, s, k)
    key = split_heads(config, xp.relu(linear(xp, p["key"], x)) * key_mask / config.d_head)
    value = split_heads(config, linear(xp, p["value"], x) * value_scale)
    place = xp.float32(xp.arange(x.shape[1]))
    distance = xp.abs(place[None] - place[:, None])  # (s, s)
    head = xp.float32(xp.arange(config.n_heads)).reshape((1, -1, 1, 1))
    log_rate = xp.log(1 - xp.exp((-5 - head) * 0.6931471805599453))  # rates 1 - 2^(-5 - head)
    pairs = xp.matmul(query, key.swapaxes(2, 3)) * xp.exp(log_rate * distance)  # (c, h, s, s)
    read = join_heads(xp.rms_norm(xp.matmul(pairs, value)))
    return linear(xp, p["output"], read * xp.silu(linear(xp, p["gate"], x)))


def split_heads(config: ModelConfig, x: Array) -> Array:
    """(c, s, d) to (c, h, s, k)."""
    return x.reshape((x.shape[0], x.shape[1], config.n_heads, config.d_head)).swapaxes(1, 2)


def join_heads(x: Array) -> Array:
    """(c, h, s, k) to (c, s, d)."""
    c, h, s, k = x.shape
    return x.swapaxes(1, 2).reshape((c, s, h * k))
