"""Names of genes: the vocabulary, other names, where a table holds them, and matching the two."""

from cellfm.genes.vocabulary import Vocabulary

__all__ = ["Vocabulary"]
