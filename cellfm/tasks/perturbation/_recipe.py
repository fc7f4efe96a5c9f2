"""How the network of perturbations is built and trained."""

from dataclasses import dataclass

from cellfm.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """The numbers of a fit; those of GEARS (Roohani 2023) but for `bag`, which is 1 there."""

    width: int = 64
    n_epochs: int = 20
    batch_size: int = 32
    """Conditions of a step; all where there are fewer."""
    bag: int = 1
    """Cells that are averaged on either side of a pair."""
    learning_rate: float = 1e-3
    falling: float = 0.5
    """The learning rate is multiplied with it after each epoch."""
    weight_decay: float = 5e-4
    power: float = 4.0
    """Of the absolute error."""
    direction: float = 0.1
    """Weight of the direction term."""
    sign: bool = False
    """The direction by signs, which have no gradient, instead of tanh."""
    uncertainty: bool = False
    uncertainty_weight: float = 0.1
    random_state: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "n_epochs", "batch_size", "bag"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a whole number above 0, not {value!r}.")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate must be above 0, not {self.learning_rate!r}.")
