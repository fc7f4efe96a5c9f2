"""Every AnnData key that cellfm reads or writes: one frozen dataclass per result.

``docs/conventions.md`` is generated from this file.
"""

from dataclasses import dataclass

RUN = "cellfm"
"""`uns` entry with the records of all runs."""


@dataclass(frozen=True)
class EmbedKeys:
    """Cell embeddings, written by `cf.tl.embed`."""

    obsm: str = "X_cellfm"
    """float32, (n_obs, d_model): one embedding for each cell, NaN for cells without any known gene."""
    uns: str = RUN
    """dict: the facts of the run under the name of the embedding."""
    fingerprints: str = "fingerprints"
    """`uns["cellfm"]["X_cellfm"]["fingerprints"]`, array of uint64: one number for each cell, from which other tools
    see whether the embedding still belongs to the cell's counts."""


@dataclass(frozen=True)
class GeneKeys:
    """Gene names, written by `cf.pp.harmonize_genes` and `cf.pp.prepare`."""

    original: str = "cellfm_original_name"
    """`var`, str: the original name of the gene."""
    matched: str = "cellfm_match"
    """`var`, categorical: how the gene was matched (symbol, ensembl, restored, previous, alias, none)."""
    uns: str = "genes"
    """`uns["cellfm"]["genes"]`, dict: how many genes were matched, renamed and merged."""


@dataclass(frozen=True)
class CountKeys:
    """Recovered counts, written by `cf.pp.recover_counts`."""

    layer: str = "counts"
    """`layers`, float32 CSR, (n_obs, n_vars): whole numbers."""
    recovered: str = "cellfm_counts_recovered"
    """`obs`, bool: False for cells whose counts could not be recovered (only with ``errors="flag"``)."""


@dataclass(frozen=True)
class AnnotationKeys:
    """Cell types, written by `cf.tl.annotate` and `cf.tl.transfer_labels`."""

    label: str = "cellfm_label"
    """`obs`, categorical: the label, ``"Unknown"`` where the cell is rejected."""
    raw: str = "cellfm_label_raw"
    """`obs`, categorical: the most probable label of every cell, before rejection and majority vote."""
    confidence: str = "cellfm_confidence"
    """`obs`, float32: calibrated probability of the raw label, 0 to 1."""
    distance: str = "cellfm_distance"
    """`obs`, float32: how far the cell is from the reference; the larger, the less the label can be trusted."""
    proba: str = "cellfm_proba"
    """`obsm`, float32, (n_obs, n_classes): probability of each class."""
    classes: str = "classes"
    """`uns["cellfm"]["cellfm_proba"]["classes"]`, array of str: the columns of the probabilities."""


@dataclass(frozen=True)
class IntegrationKeys:
    """Integrated embeddings, written by `cf.tl.integrate`."""

    obsm: str = "X_cellfm_integrated"
    """float32, (n_obs, d_model): one embedding for each cell, NaN for cells without any known gene."""
    umap: str = "X_cellfm_integrated_umap"
    """`obsm`, float32, (n_obs, 2): UMAP of the integrated embedding, with `umap`."""
    umap_before: str = "X_cellfm_umap"
    """`obsm`, float32, (n_obs, 2): UMAP of the embedding of the model before integration, with `umap`."""
    history: str = "history"
    """`uns["cellfm"]["X_cellfm_integrated"]["history"]`, DataFrame: a row for each validation of the training."""


@dataclass(frozen=True)
class GeneEmbeddingKeys:
    """Gene embeddings, written by `cf.tl.embed_genes`."""

    varm: str = "cellfm"
    """`varm`, float32, (n_vars, d_model): one embedding for each gene, NaN for genes that are unknown or not expressed.
    With groups of cells also ``cellfm_<group>`` for each of them."""
    groups: str = "groups"
    """`uns["cellfm"]["cellfm"]["groups"]`, array of str: the groups that have their own embeddings."""


@dataclass(frozen=True)
class ModuleKeys:
    """Gene modules, written by `cf.tl.gene_modules`; enrichment by `cf.tl.enrich_modules`."""

    var: str = "cellfm_module"
    """`var`, categorical: the module of each gene at the first resolution; missing for genes without a module."""
    varm: str = "cellfm_modules"
    """`varm`, int32, (n_vars, n_resolutions): the module at each resolution, -1 for none."""
    varp: str = "cellfm_neighbors"
    """`varp`, float32 CSR, (n_vars, n_vars): cosines of neighbouring genes."""
    umap: str = "cellfm_modules_umap"
    """`varm`, float32, (n_vars, 2): UMAP of the graph, NaN for genes outside (only with ``umap=True``)."""
    resolutions: str = "resolutions"
    """`uns["cellfm"]["cellfm_module"]["resolutions"]`, array of float: the columns of the modules."""
    enrichment: str = "cellfm_enrichment"
    """`uns`, DataFrame: a row for each module and term with shared genes."""
    comparison: str = "cellfm_module_comparison"
    """`uns`, DataFrame: modules and enriched terms by resolution and source of the graph (`cf.tl.compare_modules`)."""
    scores: str = "cellfm_module_scores"
    """`obsm`, float32, (n_obs, n_modules): how much each cell expresses each module (`cf.tl.score_modules`)."""
    network: str = "cellfm_gene_network"
    """`uns`, DataFrame: the strongest relations among chosen genes (`cf.tl.gene_network`)."""


@dataclass(frozen=True)
class AttentionKeys:
    """Attention scores, written by `cf.tl.attention`, `cf.tl.rank_lncrnas` and `cf.tl.attention_partners`."""

    varm: str = "cellfm_attention"
    """`varm`, float32, (n_vars, n_groups): mean attention score from the cell token (CLS) to each gene, 0 to 1, over
    the cells of a group that express it; NaN if none does. With `readers` also ``cellfm_attention_<gene>`` for each of
    them."""
    expression: str = "cellfm_attention_expression"
    """`varm`, float32, (n_vars, n_groups): the control, the same ranks by expression alone. With `readers` also
    ``cellfm_attention_<gene>_expression``."""
    groups: str = "groups"
    """`uns["cellfm"]["cellfm_attention"]["groups"]`, array of str: the columns."""
    attention_layer: str = "attention_layer"
    """`uns["cellfm"]["cellfm_attention"]["attention_layer"]`, int: the layer that was read, counted from 0; also under
    ``cellfm_lncrnas``, ``cellfm_attention_partners`` and ``cellfm_contributions``."""
    active_layers: str = "active_layers"
    """`uns["cellfm"]["cellfm_attention"]["active_layers"]`, array of int: the layers that can be read; also under
    ``cellfm_lncrnas``, ``cellfm_attention_partners`` and ``cellfm_contributions``."""
    correlation: str = "expression_correlation"
    """`uns["cellfm"]["cellfm_attention"]["expression_correlation"]`, DataFrame by reader and group: agreement with the
    control; also under ``cellfm_attention_partners``, by gene, and ``cellfm_lncrnas``, float."""
    lncrnas: str = "cellfm_lncrnas"
    """`uns`, DataFrame: genes that mark each group, the most specific first."""
    partners: str = "cellfm_attention_partners"
    """`uns`, DataFrame: the genes most strongly linked to each chosen gene."""


@dataclass(frozen=True)
class ContributionKeys:
    """Contributions of genes to embeddings, written by `cf.tl.gene_contributions`."""

    uns: str = "cellfm_contributions"
    """`uns`, DataFrame: how much each gene contributes to the embedding of a group, with its expression."""
    groups: str = "groups"
    """`uns["cellfm"]["cellfm_contributions"]["groups"]`, DataFrame by group: number of cells, contribution of CLS
    itself, sum of all contributions, and agreement of contributions with expression."""
    directions: str = "directions"
    """`uns["cellfm"]["cellfm_contributions"]["directions"]`, float32, (n_groups, d_model): the direction of each group,
    of length 1."""


@dataclass(frozen=True)
class PerturbationKeys:
    """Predicted perturbations, in the tables that `cf.tl.perturb` and `cf.tl.screen_perturbations` return."""

    condition: str = "cellfm_perturbation"
    """`obs`, categorical: the perturbation, ``A`` or ``A+B``."""
    part: str = "cellfm_part"
    """`obs`, categorical: ``train``, ``validation``, ``test`` or ``new``."""
    change: str = "cellfm_change"
    """`layers`, float32, (n_obs, n_vars): predicted change against control."""
    observed: str = "cellfm_observed_change"
    """`layers`, float32, (n_obs, n_vars): measured mean change against control, NaN for what was not measured."""
    spread: str = "cellfm_change_sd"
    """`layers`, float32, (n_obs, n_vars): standard deviation around the predicted change (only with
    ``uncertainty``)."""
    cluster: str = "cellfm_cluster"
    """`obs`, categorical: cluster of perturbations of a screen (`cf.tl.screen_perturbations`)."""
    dominant: str = "cellfm_dominant_gene"
    """`obs`, categorical: the gene that most perturbations of the cluster share."""
    uns: str = "perturbation"
    """`uns["cellfm"]["perturbation"]`, dict: the facts of the run."""


@dataclass(frozen=True)
class TransportKeys:
    """Cells mapped to another condition, in the tables that `cf.tl.transport` and `cf.tl.compare_transport` return."""

    condition: str = "cellfm_condition"
    """`obs`, categorical: the target condition (`cf.tl.transport`)."""
    state: str = "cellfm_state"
    """`obs`, categorical: ``before``, ``predicted`` or ``observed`` (`cf.tl.compare_transport`)."""
    layer: str = "cellfm_before"
    """`layers`, float32, (n_obs, n_vars): log-normalised expression before (`cf.tl.transport`)."""
    obsm: str = "X_cellfm_transport"
    """`obsm`, float32, (n_obs, n_latent): predicted cells in the latent space."""
    before: str = "X_cellfm_transport_before"
    """`obsm`, float32, (n_obs, n_latent): cells in the latent space before (`cf.tl.transport`)."""
    umap: str = "X_cellfm_transport_umap"
    """`obsm`, float32, (n_obs, 2): UMAP of the latent cells of all states (`cf.tl.compare_transport`, with `umap`)."""
    scores: str = "scores"
    """`uns["cellfm"]["transport"]["scores"]`, DataFrame: similarity of predicted and observed cells, compared with no
    change (`cf.tl.compare_transport`)."""
    uns: str = "transport"
    """`uns["cellfm"]["transport"]`, dict: the facts of the run."""


EMBED = EmbedKeys()
GENES = GeneKeys()
COUNTS = CountKeys()
ANNOTATION = AnnotationKeys()
INTEGRATION = IntegrationKeys()
GENE_EMBEDDING = GeneEmbeddingKeys()
MODULES = ModuleKeys()
ATTENTION = AttentionKeys()
CONTRIBUTIONS = ContributionKeys()
PERTURBATION = PerturbationKeys()
TRANSPORT = TransportKeys()

UNKNOWN = "Unknown"
"""The label of cells that belong to none of the known types."""

GENE_COLUMNS = (
    "feature_name",
    "gene_symbols",
    "gene_symbol",
    "gene_name",
    "gene_names",
    "gene_short_name",
    "hgnc_symbol",
    "symbol",
    "gene_ids",
    "gene_id",
    "ensembl_id",
    "ensembl_ids",
    "ensembl_gene_id",
    "ensembl",
    "feature_id",
)
"""Columns of `var` that are searched for gene names besides `var_names`, in any capitalisation and with any
punctuation."""
