"""Genes: embeddings, modules and what they are enriched for, function, and what reads them."""

from cellfm.tasks.genes._compare import compare_graphs
from cellfm.tasks.genes._embed import GeneMeans, contextual_means, static_embedding
from cellfm.tasks.genes._enrich import GeneSets, enriched_terms, match_sets, over_representation, read_gene_sets
from cellfm.tasks.genes._features import gene_features, log_normalised
from cellfm.tasks.genes._graph import leiden_modules, neighbour_graph, random_modules, spread, strongest, umap_of
from cellfm.tasks.genes._stored import module_keys, stored_modules

__all__ = [
    "GeneMeans",
    "GeneSets",
    "compare_graphs",
    "contextual_means",
    "enriched_terms",
    "gene_features",
    "leiden_modules",
    "log_normalised",
    "match_sets",
    "module_keys",
    "neighbour_graph",
    "over_representation",
    "random_modules",
    "read_gene_sets",
    "spread",
    "static_embedding",
    "stored_modules",
    "strongest",
    "umap_of",
]
