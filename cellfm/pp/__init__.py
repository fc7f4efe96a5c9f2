"""Prepare data: look at them, give genes the model's names, regain counts, leave out poor cells. Never an engine."""

from cellfm.pp._check import check
from cellfm.pp._harmonize import harmonize_genes
from cellfm.pp._prepare import prepare
from cellfm.pp._recover import recover_counts

__all__ = ["check", "harmonize_genes", "prepare", "recover_counts"]
