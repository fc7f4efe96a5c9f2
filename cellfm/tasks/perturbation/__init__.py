"""Genetic perturbations: conditions, graphs, splits, baselines, the network that predicts, and how it is judged."""
