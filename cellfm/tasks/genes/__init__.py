"""Genes: embeddings, modules, enrichment, function, attention and contributions."""

from cellfm.tasks.genes._attention import (
    ATTENTION_SCORE,
    EXPRESSION_SCORE,
    cls_scores,
    gene_scores,
    layer_facts,
    mean_scores,
    n_shared_at_top,
    pick_layer,
    rank_correlation,
    score_matrices,
)
from cellfm.tasks.genes._biotypes import is_lncrna
from cellfm.tasks.genes._compare import compare_graphs
from cellfm.tasks.genes._contributions import (
    CONTRIBUTION,
    EXPRESSION,
    NUMBER,
    Contrast,
    contrasts,
    deletion_effects,
    mean_contributions,
)
from cellfm.tasks.genes._enrich import (
    GeneSets,
    enriched_terms,
    match_sets,
    n_tests,
    over_representation,
    read_gene_sets,
)
from cellfm.tasks.genes._features import expression_summary, gene_features, gene_table
from cellfm.tasks.genes._function import LOGISTIC, MLP, cross_validate, fit_and_score
from cellfm.tasks.genes._graph import leiden_modules, neighbour_graph, random_modules, spread, strongest, umap_of
from cellfm.tasks.genes._known import features_by_name
from cellfm.tasks.genes._labels import read_labels
from cellfm.tasks.genes._lncrnas import adjusted_over_all, is_tested, marker_table
from cellfm.tasks.genes._stored import module_keys, stored_modules

__all__ = [
    "ATTENTION_SCORE",
    "CONTRIBUTION",
    "EXPRESSION",
    "EXPRESSION_SCORE",
    "LOGISTIC",
    "MLP",
    "NUMBER",
    "Contrast",
    "GeneSets",
    "adjusted_over_all",
    "cls_scores",
    "compare_graphs",
    "contrasts",
    "cross_validate",
    "deletion_effects",
    "enriched_terms",
    "expression_summary",
    "features_by_name",
    "fit_and_score",
    "gene_features",
    "gene_scores",
    "gene_table",
    "is_lncrna",
    "is_tested",
    "layer_facts",
    "leiden_modules",
    "marker_table",
    "match_sets",
    "mean_contributions",
    "mean_scores",
    "module_keys",
    "n_shared_at_top",
    "n_tests",
    "neighbour_graph",
    "over_representation",
    "pick_layer",
    "random_modules",
    "rank_correlation",
    "read_gene_sets",
    "read_labels",
    "score_matrices",
    "spread",
    "stored_modules",
    "strongest",
    "umap_of",
]
