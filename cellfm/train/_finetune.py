"""`cf.train.finetune`: a pretrained model on the user's cells; what the tools that learn are built on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import mindspore as ms
import numpy as np
import pandas as pd
from mindspore import nn

from cellfm._logging import logger
from cellfm._progress import progress
from cellfm.config import TrainConfig
from cellfm.errors import InputError
from cellfm.model import CellFM
from cellfm.nn import (
    CellFMNetwork,
    add_lora,
    build_network,
    computing,
    merge_lora,
    name_parameters,
    network_weights,
    set_precision,
    use_device,
)
from cellfm.train._feed import Batch, Cells, Feed
from cellfm.train._loop import TrainingError
from cellfm.train._objective import PretrainObjective
from cellfm.train._optim import HEAD
from cellfm.train._step import Step
from cellfm.train._validate import mean_loss

Objective = Callable[[CellFMNetwork], nn.Cell]
"""Makes of a network the Cell that goes from the arrays of a micro-batch to ``(loss, terms)``."""
Criterion = Callable[[nn.Cell, Sequence[Batch]], Callable[[], float]]
"""Makes of the objective and the validation batches what says how good the weights are; less is better."""
Method = Literal["frozen", "lora", "full"]
_MOST_GENES = 2048  # of a cell in a step, where the user does not say


class Batches(Protocol):
    """Where the batches of training and validation come from, as `Feed` gives them."""

    @property
    def steps_per_epoch(self) -> int: ...
    def batch(self, step: int) -> Batch: ...
    def validation(self) -> list[Batch]: ...


@dataclass(frozen=True)
class Finetuned:
    """What fine-tuning found: the weights of the best validation."""

    model: CellFM
    """The model; adapters are merged into its weights."""
    head: dict[str, np.ndarray]
    """Parameters of the objective that are not the network's, by name."""
    history: pd.DataFrame
    """One line a validation: step, training loss, validation loss."""
    best_step: int
    """Step whose weights were kept; 0 if no step improved on the start."""


@computing()
def finetune(
    model: CellFM,
    data: Cells | Batches,
    objective: Objective | None = None,
    *,
    method: Method = "lora",
    config: TrainConfig | None = None,
    lora_rank: int = 8,
    lora_layers: int | None = None,
    patience: int = 5,
    criterion: Criterion = mean_loss,
) -> Finetuned:
    """Fine-tune a model; the best weights by validation loss are kept.

    Parameters
    ----------
    model
        Where to start; it is not changed.
    data
        Cells over the vocabulary of the model (a `Corpus` or a `CellTable`), or batches that the objective takes.
    objective
        Makes the loss of a network; by default the masked values of pretraining, which need no labels.
    method
        ``"frozen"`` trains the parameters that the objective adds, ``"lora"`` adapters beside them (Zeng 2025,
        Methods, "LoRA"), ``"full"`` everything.
    config
        How to train. `steps` is the upper bound; `validate_every` decides how often it is looked whether to stop. By
        default 200 steps on at most 2,048 genes a cell.
    lora_rank
        Rank of the adapters.
    lora_layers
        Number of layers, counted from the last, that get adapters; by default all.
    patience
        Validations without improvement after which training stops.
    criterion
        How a validation is judged; by default by the loss.

    Returns
    -------
    The model and head with the least validation loss, and the history.

    Raises
    ------
    InputError
        Nothing to train (``"frozen"`` with an objective without parameters), no validation cells, another vocabulary.
    TrainingError
        The loss is no number.

    Examples
    --------
    >>> from cellfm.config import TrainConfig
    >>> from cellfm.data import Corpus
    >>> config = TrainConfig(steps=2, batch_size=8, n_chunks=40, train_genes=255, validate_every=2)
    >>> tuned = cf.train.finetune(small, Corpus.open("corpus"), config=config)
    >>> tuned.model.save("my-model")
    """
    train_genes = min(model.config.max_genes, _MOST_GENES)
    config = config or TrainConfig(steps=200, validate_every=20, learning_rate=1e-4, train_genes=train_genes)
    if model.config.lora_rank:
        raise InputError("The model has adapters already; merge them first.")
    feed = _feed(model, data, config)
    validation = feed.validation()
    if not validation:
        raise InputError("There are no validation cells, by which to choose when to stop; hold some out.")
    use_device()
    network = build_network(model.config, model.weights, dropout=config.dropout)
    if method == "lora":
        add_lora(network, lora_rank, random_state=config.random_state, last_layers=lora_layers)
    set_precision(network, config.precision)
    loss_of = objective(network) if objective is not None else PretrainObjective(network, config)
    trained, head = _trained(network, loss_of, method)
    step, evaluate = Step(loss_of, trained, config), criterion(loss_of, validation)
    best, history = _train(step, feed, evaluate, trained, config, patience)
    for name, array in best.weights.items():
        trained[name].set_data(ms.Tensor(array))
    if method == "lora":
        merge_lora(network)
    tuned = CellFM(model.config, model.vocab, network_weights(network), name=f"{model.name} (fine-tuned)")
    return Finetuned(tuned, {name: p.asnumpy() for name, p in head.items()}, history, best.step)


@dataclass(frozen=True)
class _Best:
    step: int
    loss: float
    weights: dict[str, np.ndarray]


def _feed(model: CellFM, data: Cells | Batches, config: TrainConfig) -> Batches:
    if hasattr(data, "steps_per_epoch"):
        return data  # type: ignore[return-value]
    if data.vocab.hash != model.vocab.hash:  # type: ignore[union-attr]
        raise InputError("The cells are given over another vocabulary than the model's.")
    return Feed(data, model.config, config)  # type: ignore[arg-type]


def _trained(
    network: CellFMNetwork, objective: nn.Cell, method: Method
) -> tuple[dict[str, ms.Parameter], dict[str, ms.Parameter]]:
    """Parameters to train, and those among them that are the objective's own, by name."""
    of_network = name_parameters(network)
    known = {id(parameter) for parameter in of_network.values()}
    head = {HEAD + name: p for name, p in objective.parameters_and_names() if id(p) not in known}
    for name, parameter in head.items():
        parameter.name = name
    if method == "frozen":
        trained = dict(head)
    elif method == "lora":
        adapters = {n: p for n, p in of_network.items() if n.endswith((".a.weight", ".b.weight"))}
        trained = adapters | head
    elif method == "full":
        trained = of_network | head
    else:
        raise InputError(f"method must be 'frozen', 'lora' or 'full', not {method!r}.")
    if not trained:
        raise InputError("Nothing to train: the objective adds no parameters, and method='frozen' keeps the others.")
    return trained, head


def _train(
    step: Step,
    feed: Batches,
    evaluate: Callable[[], float],
    trained: dict[str, ms.Parameter],
    config: TrainConfig,
    patience: int,
) -> tuple[_Best, pd.DataFrame]:
    best = _Best(0, evaluate(), _arrays(trained))
    rows = [{"step": 0, "loss": np.nan, "validation_loss": best.loss}]
    losses: list[float] = []
    waited = 0
    with progress(config.steps, "fine-tuning", "steps") as bar:
        for done in range(1, config.steps + 1):
            batch = feed.batch(done - 1)
            losses.append(step(batch.micro, done - 1).loss)
            if not np.isfinite(losses[-1]):
                raise TrainingError(f"The loss became {losses[-1]} at step {done}. Lower the learning rate.")
            bar.update()
            if done % config.validate_every and done < config.steps:
                continue
            found = evaluate()
            rows.append({"step": done, "loss": float(np.mean(losses)), "validation_loss": found})
            bar.set_postfix(validation=f"{found:.4g}")
            losses.clear()
            waited += 1
            if found < best.loss:
                best, waited = _Best(done, found, _arrays(trained)), 0
            if waited >= patience:
                logger.info("stopped at step %d: no improvement for %d validations.", done, patience)
                break
    return best, pd.DataFrame(rows)


def _arrays(parameters: dict[str, ms.Parameter]) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy().copy() for name, parameter in parameters.items()}
