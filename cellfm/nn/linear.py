"""Dense layers: without a bias, with low-rank adapters if the weights have them, and with a bias in heads."""

from cellfm.engines import Array, Operations, Weights


def linear(xp: Operations, p: Weights, x: Array) -> Array:
    """``x W^T``, and ``x W^T + (x A^T) B^T`` for a weight with adapters (LoRA; paper, Methods, "LoRA")."""
    if "base" in p:
        low_rank = xp.linear(x, p["a"]["weight"])
        return xp.linear(x, p["base"]["weight"]) + xp.linear(low_rank, p["b"]["weight"])
    return xp.linear(x, p["weight"])


def dense(xp: Operations, p: Weights, x: Array) -> Array:
    """``x W^T + b``."""
    return xp.linear(x, p["linear"]["weight"]) + p["bias"]
