"""Configuration of the perturbation network and its training."""

from dataclasses import dataclass
from typing import Literal, get_args

from cellfm.errors import InputError

Start = Literal["effects", "additive", "mean", "none"]


@dataclass(frozen=True)
class Recipe:
    """Options of a fit.

    Departures from GEARS (Roohani 2023): that learns from single cells (`bag` 1) to depart from no change (`start`
    ``"none"``), with `power` 4, `falling` 0.5 and `weight_decay` 5e-4, and keeps the epoch with the lowest error on
    validation. Here the network departs from the sum of the effects of the genes, learns from means of a few cells by
    the squared error, and keeps the earliest epoch that is not clearly worse on validation than the best. So with few
    conditions it stays near a baseline that is hard to beat. These numbers were chosen on validation conditions of the
    Norman subset; ``benchmarks/perturbation.md`` has what they reach on test conditions.
    """

    width: int = 64
    n_epochs: int = 20
    """Number of passes over the cells."""
    patience: int = 5
    """Number of epochs without improvement after which training stops."""
    batch_size: int = 32
    """Number of conditions per step; all if there are fewer."""
    start: Start = "effects"
    """The prediction that the network corrects."""
    bag: int = 20
    """Number of cells that are averaged on either side of a pair."""
    learning_rate: float = 1e-3
    falling: float = 0.9
    """Factor of the learning rate after each epoch."""
    weight_decay: float = 0.0
    power: float = 2.0
    """Power of the absolute error in the loss."""
    direction: float = 0.1
    """Weight of the direction term."""
    sign: bool = False
    """Use signs, which have no gradient, instead of tanh in the direction term."""
    uncertainty: bool = False
    uncertainty_weight: float = 0.1
    random_state: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "n_epochs", "patience", "batch_size", "bag"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a whole number above 0, not {value!r}.")
        if self.start not in get_args(Start):
            raise InputError(f"start must be one of {', '.join(map(repr, get_args(Start)))}, not {self.start!r}.")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate must be above 0, not {self.learning_rate!r}.")
