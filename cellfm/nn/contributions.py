"""Contributions of tokens to the attention output of CLS in a layer, along directions."""

from cellfm.config import ModelConfig
from cellfm.engines import Array, Operations
from cellfm.engines.operations import RMS_FLOOR
from cellfm.nn.attention import split_heads
from cellfm.nn.layout import Layout, sum_by_cell, to_chunks


def contributions(
    xp: Operations,
    config: ModelConfig,
    query: Array,
    gate: Array,
    key: Array,
    value: Array,
    readout: Array,
    scale: Array,
    layout: Layout,
) -> Array:
    """Parts of the attention output of CLS that come from each token, (c, s, m), 0 at padding.

    ``c_j = sum over heads of (q . k_j) v_j . (W_o^T a * silu(gate) / rms)``: norm and gate are held fixed, so that the
    parts of all tokens of a cell, including CLS, add up to its attention output along the direction `a`.

    `query` and `gate` (b, d) are projections of CLS, `key` and `value` (c, s, d) those of all tokens, none of them
    activated. `readout` (m, d) is ``W_o^T a`` of each direction, `scale` (c, 1, 1) the value scale over ``d_head``.
    """
    key, value = split_heads(config, xp.relu(key)), split_heads(config, value)  # (c, h, s, k)
    query, gate = split_heads(config, xp.relu(query)[:, None]), split_heads(config, xp.silu(gate)[:, None])
    readout = split_heads(config, readout[None])  # (1, h, m, k)
    compared = xp.matmul(key, to_chunks(xp, query, layout).swapaxes(2, 3))  # (c, h, s, 1)
    weight = compared * (layout[1][..., None] * scale)[:, None]
    read = sum_by_cell(xp, xp.matmul(weight, value, transpose_a=True), layout)  # (b, h, 1, k)
    inv_rms = xp.rsqrt(xp.maximum((read * read).sum(-1, keepdims=True) / config.d_head, RMS_FLOOR**2))
    along = gate * inv_rms * readout  # (b, h, m, k)
    parts = xp.matmul(value, to_chunks(xp, along, layout).swapaxes(2, 3))  # (c, h, s, m)
    return (parts * weight).sum(1)
