"""Gene names: the vocabulary of a model, synonyms, and matching of the names in data."""

from cellfm.genes.vocabulary import Vocabulary

__all__ = ["Vocabulary"]
