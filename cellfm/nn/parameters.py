"""The parameters of a network by name: shapes, initial values. NumPy only."""

import numpy as np

from cellfm.config import ModelConfig

Weights = dict[str, np.ndarray]
"""Arrays by parameter name, as `CellFMNetwork` names them."""

_ATTENTION = tuple(f"attention.{name}" for name in ("query", "key", "value", "gate", "output"))
NEGLIGIBLE = 0.01
"""The attention of a layer that adds less than this share of the strongest layer is read only on request."""
GATES = ("attention.gate", "glu.gate")
"""Parameters that multiply the output of a layer."""


def projections(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Name and shape of the projections of a layer, which adapters (LoRA) wrap."""
    d, inner = config.d_model, config.d_inner
    shapes = dict.fromkeys(_ATTENTION, (d, d))
    if config.feed_forward == "ffn":
        return shapes | {"glu.inner": (inner, d), "glu.output": (d, inner)}
    return shapes | dict.fromkeys(("glu.gate", "glu.value", "glu.output"), (d, d))


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter."""
    d, w, r = config.d_model, config.d_value, config.lora_rank
    shapes: dict[str, tuple[int, ...]] = {
        "embed.gene": (config.n_gene_rows, d),
        "embed.cls": (1, 1, d),
        "embed.hidden": (1, 1, d),
        "embed.zero": (1, 1, d),
        "embed.value.skip": (1, 1),
        "embed.value.expand.weight": (w, 1),
        "embed.value.mix.weight": (w, w),
        "embed.value.table.weight": (d, w),
        "gene_decoder.inner.weight": (d, d),
        "gene_decoder.output.weight": (1, d),
        "cell_decoder.inner.weight": (d, d),
    }
    if config.depth_tokens:
        shapes["embed.depth"] = (2, d)
        for part in ("skip", "expand.weight", "mix.weight", "table.weight"):
            shapes[f"embed.depth_value.{part}"] = shapes[f"embed.value.{part}"]
    if config.zero_modelling:
        shapes["gene_decoder.expressed.weight"] = (1, d)
        shapes["cell_decoder.expressed.weight"] = (d, d)
    for i in range(config.n_layers):
        layer = f"backbone.layers.{i}"
        for projection, shape in projections(config).items():
            if r:
                shapes[f"{layer}.{projection}.base.weight"] = shape
                shapes[f"{layer}.{projection}.a.weight"] = (r, shape[1])
                shapes[f"{layer}.{projection}.b.weight"] = (shape[0], r)
            else:
                shapes[f"{layer}.{projection}.weight"] = shape
        for norm in ("norm1", "norm2"):
            shapes[f"{layer}.{norm}.gamma"] = (d,)
            shapes[f"{layer}.{norm}.beta"] = (d,)
    return shapes


def initial_weights(config: ModelConfig, random_state: int = 0) -> Weights:
    """Draw the initial weights: Xavier normal with the gains of DeepNorm (paper, Methods, "ERetNet").

    NumPy draws them, so that a seed gives the same network everywhere. Adapters have no effect at the start.
    """
    generator = np.random.default_rng(random_state)
    deep = (8 * config.n_layers) ** -0.25
    weights: Weights = {}
    for name, shape in parameter_shapes(config).items():
        kind = name.removesuffix(".weight").rsplit(".", 1)[-1]
        if kind == "gamma":
            weights[name] = np.ones(shape, np.float32)
        elif kind in ("beta", "hidden", "zero", "skip", "b"):
            weights[name] = np.zeros(shape, np.float32)
        elif kind == "a":
            weights[name] = (generator.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)
        else:
            std = _gain(name, deep) * np.sqrt(2 / (shape[0] + shape[-1]))
            weights[name] = (generator.standard_normal(shape) * std).astype(np.float32)
    weights["embed.gene"][0] = 0
    return weights


def merged_weights(weights: Weights) -> Weights:
    """Merge adapters: each is added to the projection that it adapts, with the same output of the network."""
    merged = dict(weights)
    for name in [name for name in weights if name.endswith(".base.weight")]:
        projection = name.removesuffix(".base.weight")
        merged[f"{projection}.weight"] = _adapted(weights, projection)
        for part in ("base", "a", "b"):
            del merged[f"{projection}.{part}.weight"]
    return merged


def n_active_layers(config: ModelConfig, weights: Weights) -> int:
    """Number of layers up to the last that adds anything, at least 1: above it, gates are zero and only norms act.

    For networks in the published form, without adapters.
    """
    for n in range(config.n_layers, 1, -1):
        if any(weights[f"backbone.layers.{n - 1}.{gate}.weight"].any() for gate in GATES):
            return n
    return 1


def active_heads(config: ModelConfig, weights: Weights) -> np.ndarray:
    """Heads whose attention can change a token, (n_layers, n_heads) bool.

    A head adds ``(O / rms(O) * silu(x W_u)) W_o`` with ``O = Q K^T V``. It adds exactly zero if no dimension has a
    gate, a value and an output, or none has a query and a key; then its queries and keys are meaningless.
    """
    active = np.zeros((config.n_layers, config.n_heads), bool)
    for i in range(config.n_layers):
        query, key, value, gate = (
            _adapted(weights, f"backbone.layers.{i}.{name}").any(1) for name in _ATTENTION if name != "attention.output"
        )
        output = _adapted(weights, f"backbone.layers.{i}.attention.output").any(0)
        compared, added = (
            dimensions.reshape(config.n_heads, -1).any(1) for dimensions in (query & key, value & gate & output)
        )
        active[i] = compared & added
    return active


def attention_strengths(config: ModelConfig, weights: Weights) -> np.ndarray:
    """How much the attention of each layer adds to tokens, relative to the layer that adds most: (n_layers,) from 0 to
    1.

    The product of the norms of gate and output; queries, keys and values do not count, because their output is
    normalised. 0 for layers without active heads.
    """
    sizes = [
        np.prod(
            [np.linalg.norm(_adapted(weights, f"backbone.layers.{i}.attention.{name}")) for name in ("gate", "output")]
        )
        for i in range(config.n_layers)
    ]
    active = np.where(active_heads(config, weights).any(1), sizes, 0.0)
    return active / active.max() if active.any() else active


def _adapted(weights: Weights, projection: str) -> np.ndarray:
    """The weight of a projection, with its adapter where it has one."""
    if f"{projection}.weight" in weights:
        return weights[f"{projection}.weight"]
    base, a, b = (weights[f"{projection}.{part}.weight"] for part in ("base", "a", "b"))
    return base + b @ a


def _gain(name: str, deep: float) -> float:
    if name in ("embed.gene", "embed.cls", "embed.depth"):
        return 0.5
    in_layer = name.startswith("backbone.")
    shallow = ".query." in name or ".key." in name
    return deep if in_layer and not shallow else 1.0
