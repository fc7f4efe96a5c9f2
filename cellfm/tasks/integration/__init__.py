"""Integration of batches: label-free fine-tuning, Harmony, and scores of the result."""
