"""Batches brought together: label-free fine-tuning, and how well it worked."""
