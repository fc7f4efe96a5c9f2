"""Train the perturbation network on pairs of control and perturbed cells, and keep the best epoch by validation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellfm.config import TrainConfig
from cellfm.engines import FIXED, Backend, DeviceMemoryError, Objective, Trainer, start_engine
from cellfm.errors import TrainingError
from cellfm.io.progress import progress
from cellfm.nn.perturbation import (
    MIN_VARIANCE,
    perturbation,
    perturbation_weights,
    perturbed_changes,
    statistics_names,
)
from cellfm.nn.weights import nest
from cellfm.tasks.perturbation._baselines import start_changes
from cellfm.tasks.perturbation._choice import choose_epoch, validation_errors
from cellfm.tasks.perturbation._conditions import MAX_GENES, Condition, Conditions
from cellfm.tasks.perturbation._graphs import Graph
from cellfm.tasks.perturbation._metrics import score_conditions
from cellfm.tasks.perturbation._profiles import Profiles
from cellfm.tasks.perturbation._recipe import Recipe
from cellfm.tasks.perturbation._split import Split

MIN_STEPS = 5
"""Minimum number of steps per epoch, which is otherwise one pass over the cells."""
CHUNK = 32
"""Number of conditions that are predicted at once."""


@dataclass(frozen=True)
class NetworkInput:
    """What the network is given about genes before training."""

    coexpression: Graph
    relations: Graph
    """Graph of the genes that can be perturbed."""
    genes: np.ndarray | None
    """(n_genes, d) vectors of the measured genes; None if the network learns them."""
    perturbations: np.ndarray | None
    """(n_perturbable, d) vectors of the genes that can be perturbed; None as above."""

    def initial(self, recipe: Recipe) -> dict[str, np.ndarray]:
        """Initial weights, with which the network predicts no change, by flat name."""
        return perturbation_weights(
            len(self.coexpression.neighbours),
            len(self.relations.neighbours),
            d_genes=None if self.genes is None else self.genes.shape[1],
            d_perturbations=None if self.perturbations is None else self.perturbations.shape[1],
            width=recipe.width,
            uncertainty=recipe.uncertainty,
            random_state=recipe.random_state,
        )

    def fixed(self) -> dict[str, np.ndarray]:
        """Arrays that the network reads and training does not change, by flat name."""
        arrays = {}
        for name, graph in (("coexpression", self.coexpression), ("relations", self.relations)):
            arrays[f"{FIXED}{name}.neighbours"] = graph.neighbours.astype(np.int32)
            arrays[f"{FIXED}{name}.weights"] = graph.weights.astype(np.float32)
        for name, given in (("genes", self.genes), ("perturbations", self.perturbations)):
            if given is not None:
                arrays[FIXED + name] = given.astype(np.float32)
        return arrays


class Pairs:
    """Batches of pairs: the mean of a few perturbed cells of a condition, and of as many control cells.

    The network learns what the changes that it starts from, `start` (n_train, n_genes), do not explain.
    """

    def __init__(
        self,
        values: sp.csr_matrix,
        conditions: Conditions,
        train: Sequence[Condition],
        start: np.ndarray,
        places: dict[str, int],
        recipe: Recipe,
    ) -> None:
        rows = {condition: i for i, condition in enumerate(conditions.conditions)}
        self.values, self.recipe = values, recipe
        self.control = conditions.cells(0)
        self.cells = [conditions.cells(rows[condition]) for condition in train]
        self.codes = code_conditions(train, places)
        self.start = start
        self.size = min(recipe.batch_size, len(train))
        self.mean = np.asarray(values[self.control].mean(0), np.float32).ravel()
        self.steps_per_epoch = max(MIN_STEPS, round(sum(map(len, self.cells)) / (self.size * recipe.bag)))

    def batch(self, step: int) -> tuple[np.ndarray, ...]:
        """The arrays of a step; they depend only on the seed and the step."""
        generator = np.random.default_rng((self.recipe.random_state, step))
        chosen = generator.permutation(len(self.cells))[: self.size]
        perturbed = self._means([generator.choice(self.cells[i], self.recipe.bag) for i in chosen])
        control = self._means([generator.choice(self.control, self.recipe.bag) for _ in chosen])
        codes, present = self.codes
        start = self.start[chosen]
        return codes[chosen], present[chosen], perturbed - control - start, control - self.mean + start

    def _means(self, cells: list[np.ndarray]) -> np.ndarray:
        n, bag = len(cells), self.recipe.bag
        ones = np.full(n * bag, 1 / bag, np.float32)
        pick = sp.csr_matrix((ones, (np.repeat(np.arange(n), bag), np.concatenate(cells))), (n, self.values.shape[0]))
        return np.asarray((pick @ self.values).todense(), np.float32)


class Forward:
    """A network for prediction: conditions to changes, compiled for `CHUNK` conditions."""

    def __init__(self, run: Callable[..., tuple[np.ndarray, np.ndarray]]) -> None:
        self._run = run

    def __call__(self, codes: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Changes and variances, (n, n_genes) float32 each."""
        computed: list[list[np.ndarray]] = []
        for start in range(0, len(codes), CHUNK):
            n = len(codes[start : start + CHUNK])
            padding = ((0, CHUNK - n), (0, 0))
            padded = (np.pad(x[start : start + CHUNK], padding) for x in (codes, present))
            computed.append([np.asarray(part)[:n] for part in self._run(*padded)])
        changes, log_variances = (np.concatenate(parts) for parts in zip(*computed, strict=True))
        return changes, np.exp(log_variances)


def code_conditions(conditions: Sequence[Condition], places: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the perturbed genes, (n, 2) int32, and 1 for each gene that exists, (n, 2) float32."""
    codes = np.zeros((len(conditions), MAX_GENES), np.int32)
    present = np.zeros((len(conditions), MAX_GENES), np.float32)
    for i, condition in enumerate(conditions):
        for j, gene in enumerate(condition):
            codes[i, j], present[i, j] = places[gene], 1
    return codes, present


def train_network(
    given: NetworkInput,
    values: sp.csr_matrix,
    conditions: Conditions,
    profiles: Profiles,
    split: Split,
    places: dict[str, int],
    recipe: Recipe,
    backend: Backend = "auto",
) -> tuple[dict[str, np.ndarray], pd.DataFrame, np.ndarray]:
    """The weights of the best epoch, a row for each epoch, and what the best predicts for the validation conditions.

    `choose_epoch` chooses it, by the error on the most changed genes of the validation conditions. Epoch 0 is the
    start of the network.

    Raises
    ------
    TrainingError
        The loss became NaN or infinite, or the device has too little memory.
    """
    train, changes = split.train, profiles.changes(split.train)
    start, validation_start = (start_changes(recipe.start, some, train, changes) for some in (train, split.validation))
    pairs = Pairs(values, conditions, train, start, places, recipe)
    weights = _initial_weights(given, pairs, recipe)
    trainer = _trainer(weights, given, pairs.steps_per_epoch * recipe.n_epochs, recipe, backend)
    validation = _Validation(trainer, list(weights), profiles, split.validation, validation_start, places)
    rows = _train_epochs(trainer, pairs, validation, recipe)
    epoch = choose_epoch(np.array(validation.errors))
    best, predicted = validation.kept[epoch]
    return best, pd.DataFrame(rows).assign(kept=np.arange(len(rows)) == epoch), predicted


def _initial_weights(given: NetworkInput, pairs: Pairs, recipe: Recipe) -> dict[str, np.ndarray]:
    """Weights with which no change is predicted; predicted variances start from those of a batch of pairs."""
    weights = given.initial(recipe)
    if recipe.uncertainty:
        variance = np.mean(pairs.batch(0)[2] ** 2, axis=0)
        weights["read_variance"] = np.zeros_like(weights["read_variance"])
        weights["variance_bias"] = np.log(np.maximum(variance, MIN_VARIANCE)).astype(np.float32)
    return weights


def _trainer(
    weights: dict[str, np.ndarray], given: NetworkInput, n_steps: int, recipe: Recipe, backend: Backend
) -> Trainer:
    statistics = tuple(statistics_names())
    config = TrainConfig(
        steps=n_steps,
        learning_rate=recipe.learning_rate,
        schedule="constant",
        beta2=0.999,
        weight_decay=recipe.weight_decay,
        clip="global",
        random_state=recipe.random_state,
    )
    loss = perturbation(
        power=recipe.power,
        direction=recipe.direction,
        sign=recipe.sign,
        uncertainty=recipe.uncertainty,
        uncertainty_weight=recipe.uncertainty_weight,
    )
    trained = [name for name in weights if name not in statistics]
    objective = Objective(loss, statistics=statistics)
    return start_engine(backend).trainer(objective, weights | given.fixed(), trained, config, nest)


class _Validation:
    """Scores the validation conditions by the current weights, and keeps these with their predictions."""

    def __init__(
        self,
        trainer: Trainer,
        names: list[str],
        profiles: Profiles,
        conditions: tuple[Condition, ...],
        start: np.ndarray,
        places: dict[str, int],
    ) -> None:
        self.trainer, self.names, self.control = trainer, names, profiles.control
        self.observed, self.top = profiles.means(conditions), profiles.top(conditions)
        self.codes, self.base = code_conditions(conditions, places), profiles.control + start
        self.errors: list[np.ndarray] = []
        self.kept: list[tuple[dict[str, np.ndarray], np.ndarray]] = []

        def predict(xp: Any, p: Any, arrays: Any) -> Any:
            return perturbed_changes(xp, p, arrays[0], arrays[1], training=False)[:2]

        self.forward = Forward(trainer.compile(predict))

    def __call__(self) -> dict[str, float]:
        predicted = self.base + self.forward(*self.codes)[0]
        scores = score_conditions(predicted, self.observed, self.control, self.top)
        self.errors.append(validation_errors(predicted, self.observed, self.top))
        weights = self.trainer.weights()
        self.kept.append(({name: weights[name] for name in self.names}, predicted))
        return {f"validation_{name}": float(scores[name].mean()) for name in ("mse_top20", "pearson_delta")}

    def epochs_since_best(self) -> int:
        return len(self.errors) - 1 - int(np.argmin([error.mean() for error in self.errors]))


def _train_epochs(trainer: Trainer, pairs: Pairs, validation: _Validation, recipe: Recipe) -> list[dict[str, float]]:
    """A row for the start and each epoch, until the last epoch or early stopping."""
    rows = [{"epoch": 0, "loss": np.nan} | validation()]
    with progress(trainer.config.steps, "fitting perturbations", "steps") as bar:
        for epoch in range(recipe.n_epochs):
            rate = recipe.learning_rate * recipe.falling**epoch
            trainer.config = replace(trainer.config, learning_rate=rate)
            losses = []
            for i in range(pairs.steps_per_epoch):
                losses.append(_step(trainer, pairs, epoch * pairs.steps_per_epoch + i))
                bar.update()
            if not np.isfinite(losses).all():
                raise TrainingError(f"The loss became {losses[-1]} in epoch {epoch + 1}. Lower the learning rate.")
            rows.append({"epoch": epoch + 1, "loss": float(np.mean(losses))} | validation())
            bar.set_postfix(validation=f"{rows[-1]['validation_mse_top20']:.4g}")
            if validation.epochs_since_best() >= recipe.patience:
                break
    return rows


def _step(trainer: Trainer, pairs: Pairs, step: int) -> float:
    try:
        return trainer([pairs.batch(step)], step).loss
    except DeviceMemoryError as error:
        fitting = error.fitting(pairs.size)
        raise TrainingError(f"{error} batch_size = {fitting} should fit instead of {pairs.size}.") from error


def trained_network(given: NetworkInput, weights: dict[str, np.ndarray]) -> Forward:
    """The network with trained weights, for prediction."""
    engine = start_engine()

    def predict(xp: Any, p: Any, codes: Any, present: Any) -> Any:
        return perturbed_changes(xp, p, codes, present, training=False)[:2]

    return Forward(engine.compile(predict, engine.place(nest(weights | given.fixed()))))
