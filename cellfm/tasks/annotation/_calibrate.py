"""Calibration: a temperature and thresholds, chosen on held-out cells."""

from numbers import Real

import numpy as np
from scipy.optimize import minimize_scalar

from cellfm.errors import InputError
from cellfm.tasks.annotation._mlp import softmax, weighted_loss

REJECTED = 0.05
"""Maximum share of held-out cells that become unknown: half by confidence, half by distance."""
HOTTEST = 10.0


def fit_temperature(logits: np.ndarray, codes: np.ndarray) -> float:
    """The temperature that calibrates probabilities (Guo 2017), with the lowest loss of ``softmax(logits / t)``.

    A few held-out cells that are all correct would lead to unlimited confidence; a term with the weight of one cell
    keeps the temperature near 1.
    """
    if not len(codes):
        return 1.0

    def loss(log_t: float) -> float:
        return weighted_loss(logits / np.exp(log_t), codes) + log_t**2 / len(codes)

    bound = float(np.log(HOTTEST))
    return float(np.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x))


def fit_thresholds(confidence: np.ndarray, distance: np.ndarray, *, rejected: float = REJECTED) -> tuple[float, float]:
    """Thresholds of confidence and distance, such that at most a share `rejected` of known cells fails."""
    if not len(confidence):
        return 0.0, float("inf")
    least = np.quantile(confidence, rejected / 2, method="lower")
    most = np.quantile(distance, 1 - rejected / 2, method="higher")
    return float(least), float(most)


def calibrated(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities, (n, n_classes) float32."""
    return softmax(logits / temperature).astype(np.float32)


def check_thresholds(confidence: float | None, distance: float | None) -> None:
    """Refuse thresholds out of range; None stands for the one chosen on validation cells.

    Raises
    ------
    InputError
        One of them is not a number, or out of range.
    """
    for name, value, largest, allowed in (
        ("confidence_threshold", confidence, 1.0, "from 0 to 1"),
        ("distance_threshold", distance, np.inf, "of 0 or more (numpy.inf rejects no cell)"),
    ):
        if value is not None and not (isinstance(value, Real) and 0 <= float(value) <= largest):
            raise InputError(f"{name} must be a number {allowed}, not {value!r}.")
