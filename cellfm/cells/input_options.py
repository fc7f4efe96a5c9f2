"""`InputOptions`: which numbers and which genes of a table a model is shown, as all tools that read cells take them."""

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
