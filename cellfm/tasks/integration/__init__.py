"""Integration of batches: label-free fine-tuning, and scores of the result."""
