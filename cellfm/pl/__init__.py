"""Plots of what the tools stored; nothing is computed here."""

from cellfm.pl._annotation import annotation
from cellfm.pl._benchmark import benchmark
from cellfm.pl._cells import cells
from cellfm.pl._corpus import corpus
from cellfm.pl._enrichment import enrichment
from cellfm.pl._gene_modules import gene_modules
from cellfm.pl._gene_network import gene_network
from cellfm.pl._integration import integration
from cellfm.pl._module_comparison import module_comparison

__all__ = [
    "annotation",
    "benchmark",
    "cells",
    "corpus",
    "enrichment",
    "gene_modules",
    "gene_network",
    "integration",
    "module_comparison",
]
