"""What computes and learns: compiled functions, gradients and updates. No other room imports JAX or optax."""

from cellfm.engines._fit import apply, fit, shuffled

__all__ = ["apply", "fit", "shuffled"]
