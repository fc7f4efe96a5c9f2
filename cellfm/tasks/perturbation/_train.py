"""Training of the network of perturbations: pairs of control and perturbed cells, and the best epoch by validation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellfm.config import TrainConfig
from cellfm.engines import FIXED, Backend, DeviceMemoryError, Objective, start_engine
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
from cellfm.tasks.perturbation._conditions import MOST_GENES, Condition, Conditions
from cellfm.tasks.perturbation._graphs import Graph
from cellfm.tasks.perturbation._metrics import score_conditions
from cellfm.tasks.perturbation._profiles import Profiles
from cellfm.tasks.perturbation._recipe import Recipe
from cellfm.tasks.perturbation._split import Split

LEAST_STEPS = 5
"""Steps of an epoch, which is otherwise one pass over the cells."""
CHUNK = 32
"""Conditions predicted at once."""


@dataclass(frozen=True)
class NetworkInput:
    """What the network knows of genes before it learns."""

    coexpression: Graph
    relations: Graph
    """Among the genes that can be perturbed."""
    genes: np.ndarray | None
    """(n_genes, d) given vectors of the measured genes, None where they are learnt."""
    perturbations: np.ndarray | None
    """(n_perturbable, d) the same of the genes that can be perturbed."""

    def initial(self, recipe: Recipe) -> dict[str, np.ndarray]:
        """Weights drawn for a network that predicts no change, by flat name."""
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
        """What the network reads and nothing trains, by flat name."""
        arrays = {}
        for name, graph in (("coexpression", self.coexpression), ("relations", self.relations)):
            arrays[f"{FIXED}{name}.neighbours"] = graph.neighbours.astype(np.int32)
            arrays[f"{FIXED}{name}.weights"] = graph.weights.astype(np.float32)
        for name, given in (("genes", self.genes), ("perturbations", self.perturbations)):
            if given is not None:
                arrays[FIXED + name] = given.astype(np.float32)
        return arrays


class Pairs:
    """Batches of pairs: means of a few perturbed cells of a condition, and of as many control cells.

    The network is asked for what is left beside the changes that it starts from, `start` (n_train, n_genes).
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
        self.steps_per_epoch = max(LEAST_STEPS, round(sum(map(len, self.cells)) / (self.size * recipe.bag)))

    def batch(self, step: int) -> tuple[np.ndarray, ...]:
        """The arrays of a step; they follow from the seed and the number of the step alone."""
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
    """A network in use: conditions to changes, compiled for one number of conditions."""

    def __init__(self, run: Callable[..., tuple[np.ndarray, np.ndarray]]) -> None:
        self._run = run

    def __call__(self, codes: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Changes and variances, (n, n_genes) float32 each."""
        computed: list[list[np.ndarray]] = []
        for start in range(0, len(codes), CHUNK):
            n = len(codes[start : start + CHUNK])
            padding = ((0, CHUNK - n), (0, 0))
            given = (np.pad(x[start : start + CHUNK], padding) for x in (codes, present))
            computed.append([np.asarray(part)[:n] for part in self._run(*given)])
        changes, log_variances = (np.concatenate(parts) for parts in zip(*computed, strict=True))
        return changes, np.exp(log_variances)


def code_conditions(conditions: Sequence[Condition], places: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Places of the perturbed genes (n, 2) int32, and 1 where there is one (n, 2) float32."""
    codes = np.zeros((len(conditions), MOST_GENES), np.int32)
    present = np.zeros((len(conditions), MOST_GENES), np.float32)
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
    """Weights of one epoch, a row for each, and what that epoch predicts for the validation conditions.

    `choose_epoch` takes it, by the error on the most changed genes of the validation conditions. Epoch 0 is what the
    network starts from.

    Raises
    ------
    TrainingError
        The loss is no number, or the device has too little memory.
    """
    weights = given.initial(recipe)
    train, changes = split.train, profiles.changes(split.train)
    start = [start_changes(recipe.start, some, train, changes) for some in (train, split.validation)]
    pairs = Pairs(values, conditions, train, start[0], places, recipe)
    if recipe.uncertainty:
        variance = np.mean(pairs.batch(0)[2] ** 2, axis=0)
        weights["read_variance"] = np.zeros_like(weights["read_variance"])
        weights["variance_bias"] = np.log(np.maximum(variance, MIN_VARIANCE)).astype(np.float32)
    statistics = tuple(statistics_names())
    trained = [name for name in weights if name not in statistics]
    config = TrainConfig(
        steps=recipe.n_epochs * pairs.steps_per_epoch,
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
    engine = start_engine(backend)
    trainer = engine.trainer(Objective(loss, statistics=statistics), weights | given.fixed(), trained, config, nest)

    def predict(xp, p, arrays):
        return perturbed_changes(xp, p, arrays[0], arrays[1], training=False)[:2]

    forward = Forward(trainer.compile(predict))
    observed, top = profiles.means(split.validation), profiles.top(split.validation)
    codes, base = code_conditions(split.validation, places), profiles.control + start[1]

    errors: list[np.ndarray] = []
    kept: list[tuple[dict[str, np.ndarray], np.ndarray]] = []

    def judge() -> dict[str, float]:
        predicted = base + forward(*codes)[0]
        found = score_conditions(predicted, observed, profiles.control, top)
        errors.append(validation_errors(predicted, observed, top))
        now = trainer.weights()
        kept.append(({name: now[name] for name in weights}, predicted))
        return {f"validation_{name}": float(found[name].mean()) for name in ("mse_top20", "pearson_delta")}

    rows = [{"epoch": 0, "loss": np.nan} | judge()]
    with progress(config.steps, "fitting perturbations", "steps") as bar:
        for epoch in range(recipe.n_epochs):
            trainer.config = replace(config, learning_rate=recipe.learning_rate * recipe.falling**epoch)
            losses = []
            for i in range(pairs.steps_per_epoch):
                done = epoch * pairs.steps_per_epoch + i
                try:
                    losses.append(trainer([pairs.batch(done)], done).loss)
                except DeviceMemoryError as error:
                    fitting = error.fitting(pairs.size)
                    raise TrainingError(
                        f"{error} batch_size = {fitting} should fit instead of {pairs.size}."
                    ) from error
                bar.update()
            if not np.isfinite(losses).all():
                raise TrainingError(f"The loss became {losses[-1]} in epoch {epoch + 1}. Lower the learning rate.")
            rows.append({"epoch": epoch + 1, "loss": float(np.mean(losses))} | judge())
            bar.set_postfix(validation=f"{rows[-1]['validation_mse_top20']:.4g}")
            if epoch + 1 - int(np.argmin([error.mean() for error in errors])) >= recipe.patience:
                break
    epoch = choose_epoch(np.array(errors))
    best, predicted = kept[epoch]
    return best, pd.DataFrame(rows).assign(kept=np.arange(len(rows)) == epoch), predicted


def trained_network(given: NetworkInput, weights: dict[str, np.ndarray]) -> Forward:
    """A network with weights that were trained."""
    engine = start_engine()

    def predict(xp, p, codes, present):
        return perturbed_changes(xp, p, codes, present, training=False)[:2]

    return Forward(engine.compile(predict, engine.place(nest(weights | given.fixed()))))
