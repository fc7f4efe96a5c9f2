"""Fit a predictor to cells with conditions: split, graphs, vectors of genes, network, and baselines."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellfm.cells.input import CellInput
from cellfm.engines import Backend
from cellfm.errors import InputError
from cellfm.genes.hgnc import Synonyms
from cellfm.genes.match import find_genes
from cellfm.genes.vocabulary import Vocabulary
from cellfm.io.logging import logger
from cellfm.io.messages import counted
from cellfm.model import CellFM
from cellfm.tasks._gene_embedding import contextual_means, static_embedding
from cellfm.tasks.perturbation._baselines import (
    BASELINES,
    GENE_EFFECTS,
    MEAN,
    baselines,
    principal_vectors,
    vectors_by_name,
)
from cellfm.tasks.perturbation._choice import choose_method, validation_errors
from cellfm.tasks.perturbation._conditions import Conditions, name_of
from cellfm.tasks.perturbation._graphs import coexpression_graph, term_graph
from cellfm.tasks.perturbation._labels import name_parts
from cellfm.tasks.perturbation._metrics import evaluate, summarise, warn_of_collapse
from cellfm.tasks.perturbation._predictor import NETWORK, PerturbationPredictor
from cellfm.tasks.perturbation._profiles import Profiles, mean_profiles
from cellfm.tasks.perturbation._recipe import Recipe
from cellfm.tasks.perturbation._split import Split

N_CONTROLS = 300
"""Number of control cells that a predictor keeps."""

Source = Literal["static", "contextual", "learned"]


@dataclass(frozen=True)
class Cells:
    """Cells with conditions."""

    values: sp.csr_matrix
    """(n_cells, n_genes) log-normalised expression."""
    conditions: Conditions
    genes: tuple[str, ...]
    symbols: tuple[str, ...]
    """The genes by the model's names."""
    input: CellInput | None
    """The same cells for the model, if contextual embeddings are needed."""


def known_genes(labels: Iterable[str], vocab: Vocabulary, synonyms: Synonyms) -> frozenset[str]:
    """The parts of labels that name genes of a vocabulary in any form, which decide how labels are split.

    Names such as ``TBCE-1`` that are there beside ``TBCE`` are not among them: they are rows of a table that had a
    gene twice, and in a label the guide 1 of TBCE.
    """
    parts = np.array(name_parts(map(str, labels)), dtype=object)
    found = find_genes(pd.DataFrame(index=parts), vocab, synonyms=synonyms).ids > 0
    known = set(parts[found])
    twice = {name for name in known if (match := re.fullmatch(r"(.+)-\d+", name)) and match[1] in known}
    return frozenset(known - twice)


def fit_predictor(
    model: CellFM,
    cells: Cells,
    split: Split,
    *,
    terms: dict[str, list[str]],
    synonyms: Synonyms | None,
    candidates: Sequence[str],
    genes: Source,
    perturbation: Literal["cellfm", "learned"],
    recipe: Recipe,
    backend: Backend = "auto",
) -> PerturbationPredictor:
    """Fit the network, and compare it with the baselines on the test conditions.

    Raises
    ------
    InputError
        There is no information about a perturbed gene.
    """
    from cellfm.tasks.perturbation._train import NetworkInput, train_network

    conditions, profiles = cells.conditions, mean_profiles(cells.values, cells.conditions)
    perturbable = tuple(sorted({*cells.symbols, *conditions.genes, *candidates}))
    found = find_genes(pd.DataFrame(index=list(perturbable)), model.vocab, synonyms=synonyms)
    vectors = static_embedding(model, found.ids)
    if perturbation == "cellfm":
        _refuse_unknown({*conditions.genes, *candidates}, perturbable, vectors, cells, terms)
    used = np.concatenate([conditions.cells(row) for row in profiles.rows(((), *split.train))])
    training = cells.values[np.sort(used)]
    measured = _measured_vectors(model, cells, genes, synonyms, recipe.random_state)
    given = NetworkInput(
        coexpression_graph(training),
        term_graph(terms, perturbable, vectors),
        None if measured is None else _standardised(measured),
        None if perturbation == "learned" else _standardised(vectors),
    )
    places = {gene: i for i, gene in enumerate(perturbable)}
    weights, history, by_network = train_network(
        given, cells.values, conditions, profiles, split, places, recipe, backend
    )
    of_genes = {"measured": principal_vectors(training.T.toarray()), "cellfm": principal_vectors(vectors)}
    named = {
        "measured": vectors_by_name(cells.symbols, of_genes["measured"]),
        "cellfm": vectors_by_name(perturbable, of_genes["cellfm"]),
    }
    chosen, choice = _choose(by_network, profiles, split, named)
    kept = np.random.default_rng(recipe.random_state).permutation(conditions.cells(0))[:N_CONTROLS]
    predictor = PerturbationPredictor(
        genes=cells.genes,
        symbols=cells.symbols,
        perturbable=perturbable,
        profiles=profiles,
        controls=cells.values[np.sort(kept)].toarray(),
        split=split,
        history=history,
        scores=pd.DataFrame(),
        evaluation=pd.DataFrame(),
        chosen=chosen,
        choice=choice,
        model={"name": model.name, "weights_sha256": model.weights_hash, "vocabulary_sha256": model.vocab.hash},
        recipe=recipe,
        given=given,
        weights=weights,
        vectors=of_genes,
    )
    return _judged(predictor) if split.test else predictor


def _choose(
    by_network: np.ndarray, profiles: Profiles, split: Split, vectors: dict[str, dict[str, np.ndarray]]
) -> tuple[str, pd.DataFrame]:
    """Choose the default method on the validation conditions, which are not used for training here."""
    validation, train = split.validation, split.train
    predicted = baselines(validation, train, profiles.changes(train), **vectors)
    means = {NETWORK: by_network} | {name: profiles.control + change for name, change in predicted.items()}
    observed, top = profiles.means(validation), profiles.top(validation)
    chosen, table = choose_method({name: validation_errors(mean, observed, top) for name, mean in means.items()})
    rows = table.set_index("predictor")
    logger.info(
        "%r predicts by default: on %s its error is %.4g, that of the effects of the genes %.4g and "
        "that of the network %.4g (predictor.choice).",
        chosen,
        counted(len(validation), "validation condition"),
        *rows.loc[[chosen, GENE_EFFECTS, NETWORK], "mse_top20"],
    )
    return chosen, table


def _judged(predictor: PerturbationPredictor) -> PerturbationPredictor:
    """With `scores` and `evaluation`. Baselines need no validation conditions and also learn from them."""
    test, profiles, chosen = predictor.split.test, predictor.profiles, predictor.chosen
    changes = {name: predictor.changes(test, name) for name in (NETWORK, *BASELINES)}
    observed = profiles.means(test)
    subgroups = predictor.split.subgroups
    scores = evaluate(
        {name: profiles.control + change for name, change in changes.items()},
        observed,
        profiles.control,
        profiles.top(test),
        [name_of(condition) for condition in test],
        [subgroups[condition] for condition in test],
    )
    summary = summarise(scores, network=NETWORK, random_state=predictor.recipe.random_state)
    if chosen != MEAN:
        warn_of_collapse(changes[chosen], observed)
    rows = summary[(summary["subgroup"] == "all") & (summary["metric"] == "pearson_delta")].set_index("predictor")
    logger.info(
        "on %s, changes predicted by %r correlate %.3f with the observed ones, those of the network %.3f (%+.3f "
        "compared with the best baseline, %s).",
        counted(len(test), "test condition"),
        chosen,
        *rows["mean"][[chosen, NETWORK]],
        rows.loc[NETWORK, "difference"],
        rows.loc[NETWORK, "best_baseline"],
    )
    return replace(predictor, scores=scores, evaluation=summary.assign(chosen=summary["predictor"] == chosen))


def _measured_vectors(
    model: CellFM, cells: Cells, source: Source, synonyms: Synonyms | None, random_state: int
) -> np.ndarray | None:
    """(n_genes, d) embeddings of the measured genes; None if they are learnt."""
    if source == "learned":
        return None
    ids = find_genes(pd.DataFrame(index=list(cells.symbols)), model.vocab, synonyms=synonyms).ids
    static = static_embedding(model, ids)
    if source == "static" or cells.input is None:
        return static
    control = np.where(cells.conditions.codes == 0, 0, -1)
    means = contextual_means(model, cells.input, control, 1, random_state=random_state).mean[0, ids]
    # Genes that no control cell expresses have no context.
    return np.where(np.isfinite(means), means, np.nan)


def _standardised(vectors: np.ndarray) -> np.ndarray:
    """Standardise each dimension over genes; genes without a vector are at the mean."""
    known = np.isfinite(vectors).all(1)
    if not known.any():
        raise InputError("The model knows none of the genes, so they have no vectors. Pass genes='learned'.")
    z = (vectors - vectors[known].mean(0)) / (vectors[known].std(0) + 1e-6)
    return np.where(known[:, None], z, 0).astype(np.float32)


def _refuse_unknown(
    wanted: set[str], names: tuple[str, ...], vectors: np.ndarray, cells: Cells, terms: dict[str, list[str]]
) -> None:
    with_vector = {name for name, row in zip(names, vectors, strict=True) if np.isfinite(row).all()}
    in_terms = {gene for members in terms.values() for gene in members}
    if unknown := sorted(wanted - with_vector - in_terms - {*cells.genes, *cells.symbols}):
        raise InputError(
            f"No information on {counted(len(unknown), 'perturbed gene')}: {', '.join(unknown[:20])}. "
            "They are neither measured nor in the model nor in the gene sets. Use approved symbols (hgnc= maps old "
            "ones), leave these cells out, or pass perturbation='learned'."
        )
