"""Precision and recomputation: applied to a network from outside."""

import mindspore as ms

from cellfm.nn._linear import Linear
from cellfm.nn._network import CellFMNetwork

TYPES = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}


def set_precision(network: CellFMNetwork, precision: str) -> None:
    """Compute the matrix products of all projections in another type; weights, norms, sums and losses stay float32."""
    if precision == "float32":
        return
    for _, cell in network.cells_and_names():
        if isinstance(cell, Linear):
            cell.compute_in(TYPES[precision])


def recompute_layers(network: CellFMNetwork) -> None:
    """Compute the activations of each layer again in the backward pass instead of keeping them."""
    for layer in network.backbone.layers:
        layer.recompute()
