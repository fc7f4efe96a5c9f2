"""Low-rank adapters (LoRA; paper, Methods, "LoRA"): additional weights for a network."""

import numpy as np

from cellfm.config import ModelConfig
from cellfm.nn.parameters import Weights, projections


def add_adapters(
    config: ModelConfig, weights: Weights, rank: int, *, random_state: int = 0, last_layers: int | None = None
) -> Weights:
    """The same weights with ``W x + B (A x)`` for every projection of attention and SGLU.

    Of all layers, or of the `last_layers` alone. `A` is drawn from a normal distribution, `B` is zero, so that nothing
    changes before training.
    """
    generator = np.random.default_rng(random_state)
    first = 0 if last_layers is None else max(0, config.n_layers - last_layers)
    adapted = dict(weights)
    for i in range(first, config.n_layers):
        for name, (d_out, d_in) in projections(config).items():
            projection = f"backbone.layers.{i}.{name}"
            a = generator.standard_normal((rank, d_in)) / np.sqrt(d_in)
            adapted[f"{projection}.base.weight"] = adapted.pop(f"{projection}.weight")
            adapted[f"{projection}.a.weight"] = a.astype(np.float32)
            adapted[f"{projection}.b.weight"] = np.zeros((d_out, rank), np.float32)
    return adapted
