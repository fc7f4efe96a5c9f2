"""From cells with conditions to a predictor: split, graphs, vectors of genes, the network, and the baselines beside."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellfm._encode import CellInput
from cellfm._genes import find_genes
from cellfm._hgnc import Synonyms
from cellfm._logging import logger
from cellfm.errors import InputError
from cellfm.model import CellFM
from cellfm.tasks.genes import contextual_means, static_embedding
from cellfm.tasks.perturbation._baselines import baselines, principal_vectors
from cellfm.tasks.perturbation._conditions import Conditions, name_of
from cellfm.tasks.perturbation._graphs import coexpression_graph, term_graph
from cellfm.tasks.perturbation._metrics import evaluate, summarise, warn_of_collapse
from cellfm.tasks.perturbation._predictor import NETWORK, PerturbationPredictor
from cellfm.tasks.perturbation._profiles import mean_profiles
from cellfm.tasks.perturbation._recipe import Recipe
from cellfm.tasks.perturbation._split import Split

N_CONTROLS = 300
"""Control cells that a predictor keeps."""

Source = Literal["static", "contextual", "learned"]


@dataclass(frozen=True)
class Cells:
    """Cells with conditions."""

    values: sp.csr_matrix
    """(n_cells, n_genes) log-normalised expression."""
    conditions: Conditions
    genes: tuple[str, ...]
    symbols: tuple[str, ...]
    """The genes by the names that the model has for them."""
    input: CellInput | None
    """The same cells for the model, where contextual embeddings are asked for."""


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
) -> PerturbationPredictor:
    """Fit the network, and judge it beside the baselines on the test conditions.

    Raises
    ------
    InputError
        A perturbed gene of which nothing is known.
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
    weights, history = train_network(given, cells.values, conditions, profiles, split, places, recipe)
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
        model={"name": model.name, "weights_sha256": model.weights_hash, "vocabulary_sha256": model.vocab.hash},
        recipe=recipe,
        given=given,
        weights=weights,
    )
    if split.test:
        of_baselines = {
            "measured": principal_vectors(cells.symbols, training.T.toarray()),
            "cellfm": principal_vectors(perturbable, vectors),
        }
        return _judged(predictor, of_baselines)
    return predictor


def _judged(predictor: PerturbationPredictor, vectors: dict[str, dict[str, np.ndarray]]) -> PerturbationPredictor:
    """With `scores` and `evaluation`. Baselines need no validation conditions, and learn from them too."""
    test, learnt, profiles = predictor.split.test, predictor.learnt, predictor.profiles
    changes = baselines(test, learnt, profiles.changes(learnt), **vectors)
    changes = {NETWORK: predictor.changes(test)} | changes
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
    warn_of_collapse(changes[NETWORK], observed)
    row = summary[(summary["predictor"] == NETWORK) & (summary["metric"] == "pearson_delta")].iloc[0]
    logger.info(
        "on %d test conditions, changes correlate %.3f with those observed, %+.3f beside the best baseline (%s).",
        len(test),
        row["mean"],
        row["difference"],
        row["best_baseline"],
    )
    return replace(predictor, scores=scores, evaluation=summary)


def _measured_vectors(
    model: CellFM, cells: Cells, source: Source, synonyms: Synonyms | None, random_state: int
) -> np.ndarray | None:
    """(n_genes, d) embeddings of the measured genes; None where they are learnt."""
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
    """Each dimension with mean 0 and spread 1 over genes; genes without vector at the mean."""
    known = np.isfinite(vectors).all(1)
    if not known.any():
        raise InputError("The model knows none of the genes, so that they have no vectors. Pass genes='learned'.")
    z = (vectors - vectors[known].mean(0)) / (vectors[known].std(0) + 1e-6)
    return np.where(known[:, None], z, 0).astype(np.float32)


def _refuse_unknown(
    wanted: set[str], names: tuple[str, ...], vectors: np.ndarray, cells: Cells, terms: dict[str, list[str]]
) -> None:
    with_vector = {name for name, row in zip(names, vectors, strict=True) if np.isfinite(row).all()}
    in_terms = {gene for members in terms.values() for gene in members}
    if unknown := sorted(wanted - with_vector - in_terms - {*cells.genes, *cells.symbols}):
        raise InputError(
            f"Nothing is known of {len(unknown)} perturbed genes: {', '.join(unknown[:20])}. They are neither measured "
            "nor in the model nor in the gene sets. Use approved symbols (hgnc= maps old ones), leave these cells out, "
            "or pass perturbation='learned'."
        )
