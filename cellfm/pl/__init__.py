"""Plots of stored results; nothing is computed here."""

from cellfm.pl._annotation import annotation
from cellfm.pl._attention import attention
from cellfm.pl._benchmark import benchmark
from cellfm.pl._cells import cells
from cellfm.pl._corpus import corpus
from cellfm.pl._enrichment import enrichment
from cellfm.pl._gene_contributions import gene_contributions
from cellfm.pl._gene_function import gene_function
from cellfm.pl._gene_modules import gene_modules
from cellfm.pl._gene_network import gene_network
from cellfm.pl._integration import integration
from cellfm.pl._lncrnas import lncrnas
from cellfm.pl._module_comparison import module_comparison
from cellfm.pl._perturbation import perturbation
from cellfm.pl._perturbation_ranking import perturbation_ranking
from cellfm.pl._perturbation_screen import perturbation_screen
from cellfm.pl._training import training
from cellfm.pl._transport import transport

__all__ = [
    "annotation",
    "attention",
    "benchmark",
    "cells",
    "corpus",
    "enrichment",
    "gene_contributions",
    "gene_function",
    "gene_modules",
    "gene_network",
    "integration",
    "lncrnas",
    "module_comparison",
    "perturbation",
    "perturbation_ranking",
    "perturbation_screen",
    "training",
    "transport",
]
