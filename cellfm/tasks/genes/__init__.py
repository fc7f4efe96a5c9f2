"""Genes: embeddings, modules and what they are enriched for, function, and what reads them."""

from cellfm.tasks.genes._attention import cls_scores, gene_scores, mean_scores, score_matrix
from cellfm.tasks.genes._biotypes import is_lncrna
from cellfm.tasks.genes._compare import compare_graphs
from cellfm.tasks.genes._embed import GeneMeans, contextual_means, static_embedding
from cellfm.tasks.genes._enrich import GeneSets, enriched_terms, match_sets, over_representation, read_gene_sets
from cellfm.tasks.genes._features import gene_features, log_normalised
from cellfm.tasks.genes._graph import leiden_modules, neighbour_graph, random_modules, spread, strongest, umap_of
from cellfm.tasks.genes._lncrnas import marker_table
from cellfm.tasks.genes._stored import module_keys, stored_modules

__all__ = [
    "GeneMeans",
    "GeneSets",
    "cls_scores",
    "compare_graphs",
    "contextual_means",
    "enriched_terms",
    "gene_features",
    "gene_scores",
    "is_lncrna",
    "leiden_modules",
    "log_normalised",
    "marker_table",
    "match_sets",
    "mean_scores",
    "module_keys",
    "neighbour_graph",
    "over_representation",
    "random_modules",
    "read_gene_sets",
    "score_matrix",
    "spread",
    "static_embedding",
    "stored_modules",
    "strongest",
    "umap_of",
]
