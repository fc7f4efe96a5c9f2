"""Chemical perturbation: cells of one condition carried to another, without pairs of cells."""
