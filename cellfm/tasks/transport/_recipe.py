"""Configuration of a transport model."""

from dataclasses import dataclass

from cellfm.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """Options of a fit."""

    n_components: int = 50
    """Dimensions of the latent space."""
    n_genes: int | None = 1000
    """Number of most variable genes that are predicted; None for all."""
    n_steps: int = 2000
    """Maximum number of steps of CellOT's f."""
    inner_steps: int = 10
    """Steps of CellOT's g per step of f."""
    batch_size: int = 256
    learning_rate: float = 1e-3
    """Learning rate of CellOT. The published 1e-4 with 100,000 steps is too slow here."""
    widths: tuple[int, ...] = (64, 64, 64, 64)
    """Widths of CellOT's networks."""
    validate_every: int = 25
    """Steps of f between validations."""
    patience: int = 20
    """Number of validations without improvement after which training stops."""
    start: str = "shift"
    """Start of CellOT's map: the ``shift`` between the means, or ``none`` for no change."""
    decode: str = "change"
    """What is decoded from the latent space: the ``change`` of a cell, or the ``whole`` cell."""
    random_state: int = 0

    def __post_init__(self) -> None:
        for name in ("n_components", "n_steps", "inner_steps", "batch_size", "validate_every", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be 1 or more, not {getattr(self, name)!r}.")
        if self.n_genes is not None and self.n_genes < 2:
            raise InputError(f"n_genes must be 2 or more, or None for all genes, not {self.n_genes!r}.")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate must be above 0, not {self.learning_rate!r}.")
        if self.start not in ("shift", "none"):
            raise InputError(f"start must be 'shift' or 'none', not {self.start!r}.")
        if self.decode not in ("change", "whole"):
            raise InputError(f"decode must be 'change' or 'whole', not {self.decode!r}.")
