"""Prepare data: check them, harmonise gene names, recover counts, remove poor cells. No engine is needed."""

from cellfm.pp._check import check
from cellfm.pp._harmonize import harmonize_genes
from cellfm.pp._prepare import prepare
from cellfm.pp._recover import recover_counts

__all__ = ["check", "harmonize_genes", "prepare", "recover_counts"]
