"""Training of the network of perturbations: pairs of control and perturbed cells, and the best epoch by validation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mindspore as ms
import numpy as np
import pandas as pd
import scipy.sparse as sp
from mindspore import nn, ops

from cellfm._progress import progress
from cellfm.config import TrainConfig
from cellfm.nn import PerturbationNetwork, computing, draw_head, head_weights, set_head, set_spread, silence, use_device
from cellfm.tasks.perturbation._baselines import start_changes
from cellfm.tasks.perturbation._choice import choose_epoch, validation_errors
from cellfm.tasks.perturbation._conditions import MOST_GENES, Condition, Conditions
from cellfm.tasks.perturbation._graphs import Graph
from cellfm.tasks.perturbation._metrics import score_conditions
from cellfm.tasks.perturbation._profiles import Profiles
from cellfm.tasks.perturbation._recipe import Recipe
from cellfm.tasks.perturbation._split import Split
from cellfm.train._loop import TrainingError
from cellfm.train._step import Step

SHARPNESS = 10.0
"""Slope of the tanh that stands for the sign of a change."""
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

    def build(self, recipe: Recipe) -> PerturbationNetwork:
        """The network, its weights drawn."""
        use_device()
        graphs = [(graph.neighbours, graph.weights) for graph in (self.coexpression, self.relations)]
        network = PerturbationNetwork(
            *graphs,
            genes=self.genes,
            perturbations=self.perturbations,
            width=recipe.width,
            uncertainty=recipe.uncertainty,
        )
        draw_head(network, random_state=recipe.random_state)
        return network


class Objective(nn.Cell):
    """The loss of pairs: the error to a high power, and the direction of the change against mean control."""

    def __init__(self, network: PerturbationNetwork, recipe: Recipe) -> None:
        super().__init__()
        self.network = network
        self.power, self.direction, self.sign = recipe.power, recipe.direction, recipe.sign
        self.uncertainty = recipe.uncertainty
        self.uncertainty_weight = recipe.uncertainty_weight

    def construct(
        self, perturbed: ms.Tensor, present: ms.Tensor, target: ms.Tensor, start: ms.Tensor
    ) -> tuple[ms.Tensor, ms.Tensor]:
        """Changes to predict and where the controls of the pairs lie against mean control, (s, n_genes) each."""
        said = self.network(perturbed, present)
        change = said[0]
        error = ops.abs(change - target)
        loss = (error**self.power).mean()
        if self.sign:
            apart = ops.sign(target + start) - ops.sign(change + start)
        else:
            apart = ops.tanh(SHARPNESS * (target + start)) - ops.tanh(SHARPNESS * (change + start))
        direction = (apart * apart).mean()
        total = loss + self.direction * direction
        if self.uncertainty:  # the variance learns from the error, and not the error from the variance
            square, log_variance = ops.stop_gradient(error * error), said[1]
            total = total + self.uncertainty_weight * (square * ops.exp(-log_variance) + log_variance).mean()
        return total, ops.stack((loss, direction))


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

    def __init__(self, network: PerturbationNetwork) -> None:
        self.network = network

        def run(perturbed: ms.Tensor, present: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
            return network(perturbed, present)

        self._run = ms.jit(run)

    @computing()
    def __call__(self, codes: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Changes and variances, (n, n_genes) float32 each."""
        self.network.set_train(False)
        found: list[list[np.ndarray]] = []
        for start in range(0, len(codes), CHUNK):
            n = len(codes[start : start + CHUNK])
            padding = ((0, CHUNK - n), (0, 0))
            given = (ms.Tensor(np.pad(x[start : start + CHUNK], padding)) for x in (codes, present))
            found.append([part.asnumpy()[:n] for part in self._run(*given)])
        changes, log_variances = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return changes, np.exp(log_variances)


def code_conditions(conditions: Sequence[Condition], places: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Places of the perturbed genes (n, 2) int32, and 1 where there is one (n, 2) float32."""
    codes = np.zeros((len(conditions), MOST_GENES), np.int32)
    present = np.zeros((len(conditions), MOST_GENES), np.float32)
    for i, condition in enumerate(conditions):
        for j, gene in enumerate(condition):
            codes[i, j], present[i, j] = places[gene], 1
    return codes, present


@computing()
def train_network(
    given: NetworkInput,
    values: sp.csr_matrix,
    conditions: Conditions,
    profiles: Profiles,
    split: Split,
    places: dict[str, int],
    recipe: Recipe,
) -> tuple[dict[str, np.ndarray], pd.DataFrame, np.ndarray]:
    """Weights of one epoch, a row for each, and what that epoch predicts for the validation conditions.

    `choose_epoch` takes it, by the error on the most changed genes of the validation conditions. Epoch 0 is what the
    network starts from.

    Raises
    ------
    TrainingError
        The loss is no number.
    """
    network = given.build(recipe)
    silence(network)
    train, changes = split.train, profiles.changes(split.train)
    start = [start_changes(recipe.start, some, train, changes) for some in (train, split.validation)]
    pairs = Pairs(values, conditions, train, start[0], places, recipe)
    if recipe.uncertainty:
        set_spread(network, np.mean(pairs.batch(0)[2] ** 2, axis=0))
    trained = {name: p for name, p in network.parameters_and_names() if p.requires_grad}
    config = TrainConfig(
        steps=recipe.n_epochs * pairs.steps_per_epoch,
        learning_rate=recipe.learning_rate,
        schedule="constant",
        beta2=0.999,
        weight_decay=recipe.weight_decay,
        clip="global",
        random_state=recipe.random_state,
    )
    for name, parameter in trained.items():
        parameter.name = name
    step, forward = Step(Objective(network, recipe), trained, config), Forward(network)
    observed, top = profiles.means(split.validation), profiles.top(split.validation)
    codes, base = code_conditions(split.validation, places), profiles.control + start[1]

    errors: list[np.ndarray] = []
    kept: list[tuple[dict[str, np.ndarray], np.ndarray]] = []

    def judge() -> dict[str, float]:
        predicted = base + forward(*codes)[0]
        found = score_conditions(predicted, observed, profiles.control, top)
        errors.append(validation_errors(predicted, observed, top))
        kept.append((head_weights(network), predicted))
        return {f"validation_{name}": float(found[name].mean()) for name in ("mse_top20", "pearson_delta")}

    rows = [{"epoch": 0, "loss": np.nan} | judge()]
    with progress(config.steps, "fitting perturbations", "steps") as bar:
        for epoch in range(recipe.n_epochs):
            step.config = replace(config, learning_rate=recipe.learning_rate * recipe.falling**epoch)
            losses = []
            for i in range(pairs.steps_per_epoch):
                done = epoch * pairs.steps_per_epoch + i
                losses.append(step([pairs.batch(done)], done).loss)
                bar.update()
            if not np.isfinite(losses).all():
                raise TrainingError(f"The loss became {losses[-1]} in epoch {epoch + 1}. Lower the learning rate.")
            rows.append({"epoch": epoch + 1, "loss": float(np.mean(losses))} | judge())
            bar.set_postfix(validation=f"{rows[-1]['validation_mse_top20']:.4g}")
            if epoch + 1 - int(np.argmin([error.mean() for error in errors])) >= recipe.patience:
                break
    epoch = choose_epoch(np.array(errors))
    weights, predicted = kept[epoch]
    return weights, pd.DataFrame(rows).assign(kept=np.arange(len(rows)) == epoch), predicted


def trained_network(given: NetworkInput, weights: dict[str, np.ndarray], recipe: Recipe) -> Forward:
    """A network with weights that were trained."""
    network = given.build(recipe)
    set_head(network, weights)
    return Forward(network)
