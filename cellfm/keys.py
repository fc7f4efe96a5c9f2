"""Every AnnData key that cellfm reads or writes: one frozen dataclass per result.

``docs/conventions.md`` is generated from this file.
"""

from dataclasses import dataclass

RUN = "cellfm"
"""`uns` entry that holds the facts of every run."""


@dataclass(frozen=True)
class EmbedKeys:
    """Cell embeddings, written by `cf.tl.embed`."""

    obsm: str = "X_cellfm"
    """float32, (n_obs, d_model): one embedding a cell, NaN for cells without any known gene."""
    uns: str = RUN
    """dict: the facts of the run under the name of the embedding."""


@dataclass(frozen=True)
class GeneKeys:
    """Gene names, written by `cf.pp.harmonize_genes` and `cf.pp.prepare`."""

    original: str = "cellfm_original_name"
    """`var`, str: the name the gene came with."""
    matched: str = "cellfm_match"
    """`var`, categorical: how the gene was found (symbol, ensembl, previous, alias, none)."""
    uns: str = "genes"
    """`uns["cellfm"]["genes"]`, dict: how many genes were matched, renamed, merged and left alone."""


@dataclass(frozen=True)
class CountKeys:
    """Recovered counts, written by `cf.pp.recover_counts`."""

    layer: str = "counts"
    """`layers`, float32 CSR, (n_obs, n_vars): whole numbers."""
    recovered: str = "cellfm_counts_recovered"
    """`obs`, bool: False where the values do not come from whole numbers (only with ``errors="flag"``)."""


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
    """float32, (n_obs, d_model): one embedding a cell, NaN for cells without any known gene."""


EMBED = EmbedKeys()
GENES = GeneKeys()
COUNTS = CountKeys()
ANNOTATION = AnnotationKeys()
INTEGRATION = IntegrationKeys()

UNKNOWN = "Unknown"
"""The label of cells that are none of the known kinds."""

GENE_COLUMNS = (
    "feature_name",
    "gene_symbols",
    "gene_symbol",
    "gene_name",
    "gene_ids",
    "ensembl_id",
    "feature_id",
)
"""Columns of `var` that are searched for gene names beside `var_names`."""
