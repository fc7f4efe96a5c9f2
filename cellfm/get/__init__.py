"""Read results that tools stored in AnnData as tidy tables; nothing is computed or written."""

from cellfm.get._annotation import annotation
from cellfm.get._attention import attention
from cellfm.get._gene_embeddings import gene_embeddings
from cellfm.get._gene_modules import gene_modules
from cellfm.get._runs import runs
from cellfm.get._tables import attention_partners, enrichment, gene_contributions, lncrnas

__all__ = [
    "annotation",
    "attention",
    "attention_partners",
    "enrichment",
    "gene_contributions",
    "gene_embeddings",
    "gene_modules",
    "lncrnas",
    "runs",
]
