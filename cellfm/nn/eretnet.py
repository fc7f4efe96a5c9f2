"""The backbone: ERetNet layers joined by DeepNorm (paper, Methods, "ERetNet"), and its ablations."""

from cellfm.config import ModelConfig
from cellfm.engines import Array, Operations, Weights
from cellfm.nn.attention import attend, attention, key_value_state
from cellfm.nn.layout import Layout, cls_of, value_scale
from cellfm.nn.linear import linear

Dropout = tuple[Array, list[tuple[int, float]]] | None
"""Keys of two places per layer, (2 n_layers,) int32, and `dropout_plan`; None for no dropout."""
OfLayer = tuple[Array, int, float] | None
"""Keys of the two places of a layer, (2,), and its threshold and scale."""


def glu(xp: Operations, config: ModelConfig, p: Weights, x: Array) -> Array:
    """``((x Wu) * (x Wv)) Wo`` (paper, Methods, "SGLU"); the ablation is ``W2 silu(W1 x)`` of as many parameters."""
    if config.feed_forward == "ffn":
        return linear(xp, p["output"], xp.silu(linear(xp, p["inner"], x)))
    return linear(xp, p["output"], linear(xp, p["gate"], x) * linear(xp, p["value"], x))


def layer(
    xp: Operations,
    config: ModelConfig,
    p: Weights,
    x: Array,
    key_mask: Array,
    scale: Array,
    layout: Layout,
    dropout: OfLayer,
) -> Array:
    """New tokens for all, (c, s, d): ``y = LN(alpha x + MHA(x))``, ``x' = LN(alpha y + SGLU(y))``.

    With ``norm="prenorm"`` RetNet's layer: ``y = x + MHA(LN(x))``, ``x' = y + SGLU(LN(y))``.
    """
    if config.norm == "prenorm":
        normed = layer_norm(xp, p["norm1"], x)
        y = x + drop(xp, dropout, 0, attention(xp, config, p["attention"], normed, key_mask, scale, layout))
        return y + drop(xp, dropout, 1, glu(xp, config, p["glu"], layer_norm(xp, p["norm2"], y)))
    return add(xp, config, p, x, attention(xp, config, p["attention"], x, key_mask, scale, layout), dropout)


def add(xp: Operations, config: ModelConfig, p: Weights, x: Array, read: Array, dropout: OfLayer = None) -> Array:
    """Add the output of a sublayer to tokens, both (r, m, d), by DeepNorm with ``alpha = (2 L)^(1/4)``."""
    alpha = (2 * config.n_layers) ** 0.25
    y = layer_norm(xp, p["norm1"], alpha * x + drop(xp, dropout, 0, read))
    return layer_norm(xp, p["norm2"], alpha * y + drop(xp, dropout, 1, glu(xp, config, p["glu"], y)))


def cls_layer(
    xp: Operations, config: ModelConfig, p: Weights, x: Array, key_mask: Array, scale: Array, layout: Layout
) -> Array:
    """The new CLS token of each cell, (b, d): it reads all tokens `x`, but nothing else is computed.

    This is exact, and useful in the last layer if only CLS is needed. For DeepNorm and linear attention.
    """
    cls = cls_of(xp, x, layout)[:, None]  # (b, 1, d)
    state = key_value_state(xp, config, p["attention"], x, key_mask, scale, layout)
    return add(xp, config, p, cls, attend(xp, config, p["attention"], cls, state))[:, 0]


def eretnet(
    xp: Operations,
    config: ModelConfig,
    layers: tuple[Weights, ...],
    x: Array,
    visible: Array,
    layout: Layout,
    dropout: Dropout = None,
) -> Array:
    """All layers, (c, s, d). Hidden genes are excluded from the keys in the first half, padding in all of them."""
    scale = value_scale(xp, layout)
    tokens = layout[1][..., None]  # (c, s, 1)
    shown = tokens * visible[..., None]
    n_without_hidden = config.n_layers // 2
    extras = ()
    for i in range(config.n_layers):
        of_layer = None
        if dropout is not None:
            of_layer = (dropout[0][2 * i : 2 * i + 2], dropout[1][i][0], dropout[1][i][1])
        extras = extras + ((shown if i < n_without_hidden else tokens, of_layer),)  # type: ignore[assignment]  # noqa: RUF005

    def one(x: Array, p: Weights, extra: tuple[Array, OfLayer]) -> Array:
        return layer(xp, config, p, x, extra[0], scale, layout, extra[1])

    return xp.layers(one, x, layers, extras)


def layer_norm(xp: Operations, p: Weights, x: Array) -> Array:
    return xp.layer_norm(x, p["gamma"], p["beta"])


def dropout_plan(n_layers: int, rate: float) -> list[tuple[int, float]]:
    """Threshold and scale of each layer: layer `i` of `L` drops a share ``rate * i / L`` of its output."""
    rates = [rate * i / n_layers for i in range(n_layers)]
    return [(int((rate - 0.5) * 2**32), 1 / (1 - rate)) for rate in rates]


def drop(xp: Operations, dropout: OfLayer, place: int, x: Array) -> Array:
    return x if dropout is None else xp.dropout(x, dropout[0][place], dropout[1], dropout[2])
