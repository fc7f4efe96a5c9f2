"""`InputOptions`: how a model reads the values and genes of a table; all tools that read cells share these options."""

from dataclasses import dataclass
from pathlib import Path

from cellfm.genes.match import MIN_KNOWN_GENES


@dataclass(frozen=True)
class InputOptions:
    """Arguments that every tool that reads cells shares; `cf.tl.embed` documents them."""

    layer: str | None = None
    values_layer: str | None = None
    gene_key: str | None = None
    hgnc: str | Path | bool | None = None
    min_known_genes: int = MIN_KNOWN_GENES
