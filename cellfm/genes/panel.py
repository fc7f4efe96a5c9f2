"""How many genes a cell of a small panel should express."""

_PANEL = 40
"""A fortieth of the known genes, which is 200 of 8,000. It leaves three quarters of the cells or more in 22 public sets
with few genes; 200 would leave less than half in thirteen of them."""


def panel_limit(n_known: int) -> int:
    """Genes that a cell should express where the model knows `n_known` of those that were measured."""
    return max(1, n_known // _PANEL)
