"""Genetic perturbations: conditions, graphs, splits, baselines, the network, and its evaluation."""
