"""Minimum number of expressed genes for cells of small panels."""

_PANEL = 40
"""A fortieth of the known genes, which is 200 of 8,000. It leaves three quarters of the cells or more in 22 public sets
with few genes; 200 would leave less than half in thirteen of them."""


def panel_limit(n_known: int) -> int:
    """Number of genes that a cell should express if the model knows `n_known` of the measured genes."""
    return max(1, n_known // _PANEL)
