"""The parameters of a network by name: shapes, initial values. NumPy only."""

import numpy as np

from cellfm.config import ModelConfig

Weights = dict[str, np.ndarray]
"""Arrays by parameter name, as `CellFMNetwork` names them."""

PROJECTIONS = (
    *(f"attention.{name}" for name in ("query", "key", "value", "gate", "output")),
    *(f"glu.{name}" for name in ("gate", "value", "output")),
)
"""The projections of a layer: those that adapters (LoRA) wrap."""


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
    for i in range(config.n_layers):
        layer = f"backbone.layers.{i}"
        for projection in PROJECTIONS:
            if r:
                shapes[f"{layer}.{projection}.base.weight"] = (d, d)
                shapes[f"{layer}.{projection}.a.weight"] = (r, d)
                shapes[f"{layer}.{projection}.b.weight"] = (d, r)
            else:
                shapes[f"{layer}.{projection}.weight"] = (d, d)
        for norm in ("norm1", "norm2"):
            shapes[f"{layer}.{norm}.gamma"] = (d,)
            shapes[f"{layer}.{norm}.beta"] = (d,)
    return shapes


def initial_weights(config: ModelConfig, random_state: int = 0) -> Weights:
    """Draw the initial weights: Xavier normal with the gains of DeepNorm (paper, Methods, "ERetNet").

    Drawn with NumPy, so that one seed gives the same network everywhere. Adapters change nothing at the start.
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


def _gain(name: str, deep: float) -> float:
    if name in ("embed.gene", "embed.cls"):
        return 0.5
    in_layer = name.startswith("backbone.")
    shallow = ".query." in name or ".key." in name
    return deep if in_layer and not shallow else 1.0
