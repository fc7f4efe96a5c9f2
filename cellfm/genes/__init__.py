"""Names of genes: how they are written, where a table holds them, and what is wrong where too few are known."""
