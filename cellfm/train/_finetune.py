"""`cf.train.finetune`: fine-tune a pretrained model on the user's cells; the basis of all tools that train."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from cellfm.config import TrainConfig
from cellfm.engines import FIXED, HEAD, Backend, Engine, Objective, Trainer, start_engine
from cellfm.engines.training import not_frozen
from cellfm.errors import InputError, TrainingError
from cellfm.io.logging import logger
from cellfm.io.progress import progress
from cellfm.model import CellFM
from cellfm.nn.lora import add_adapters
from cellfm.nn.objectives import pretraining
from cellfm.nn.parameters import merged_weights
from cellfm.nn.weights import nest
from cellfm.train._ending import clear_memory_errors
from cellfm.train._feed import Batch, Cells, Feed
from cellfm.train._validate import mean_loss

Criterion = Callable[[Trainer, Objective, Sequence[Batch[Any]], Engine], Callable[[], float]]
"""Scores the weights from a trainer, its objective and the validation batches; lower is better."""
Method = Literal["frozen", "lora", "full"]
_MAX_GENES = 2048  # default number of genes of a cell in a step


@runtime_checkable
class Batches(Protocol):
    """The source of training and validation batches, such as `Feed`."""

    @property
    def steps_per_epoch(self) -> int: ...
    @property
    def min_chunks(self) -> int:
        """Number of chunks of the largest cell."""

    def batch(self, step: int) -> Batch[Any]: ...
    def validation(self) -> list[Batch[Any]]: ...


@dataclass(frozen=True)
class Finetuned:
    """The result of fine-tuning: the weights of the best validation."""

    model: CellFM
    """The model; adapters are merged into its weights."""
    head: dict[str, np.ndarray]
    """Weights that the objective adds to the network, by flat name."""
    history: pd.DataFrame
    """A row for each validation: step, training loss, validation loss."""
    best_step: int
    """Step whose weights were kept; 0 if no step was better than the start."""


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
    backend: Backend = "auto",
) -> Finetuned:
    """Fine-tune a model, and keep the weights with the lowest validation loss.

    Parameters
    ----------
    model
        Model to start from; it is not changed.
    data
        Cells over the vocabulary of the model (a `Corpus` or a `CellTable`), or batches that the objective takes.
    objective
        The loss, and weights that it adds to the network; by default the masked values of pretraining, which need no
        labels.
    method
        ``"frozen"`` trains only the weights that the objective adds, ``"lora"`` also adapters (Zeng 2025, Methods,
        "LoRA"), ``"full"`` everything.
    config
        Configuration of the training. `steps` is the maximum; `validate_every` sets how often to check whether to stop.
        By default 200 steps on at most 2,048 genes per cell.
    lora_rank
        Rank of the adapters.
    lora_layers
        Number of layers, counted from the last, that get adapters; by default all.
    patience
        Number of validations without improvement after which training stops.
    criterion
        How to score a validation; by default by the loss.
    backend
        Engine; see `cf.train.pretrain`. By default that of the model.

    Returns
    -------
    The model and head with the lowest validation loss, and the history.

    Raises
    ------
    InputError
        Nothing to train (``"frozen"`` with an objective without parameters), no validation cells, another vocabulary.
    TrainingError
        The loss is NaN or infinite, or the device has too little memory; the message says what would fit.

    Examples
    --------
    >>> from cellfm.config import TrainConfig
    >>> from cellfm.corpus import Corpus
    >>> config = TrainConfig(steps=2, batch_size=8, n_chunks=40, train_genes=255, validate_every=2)
    >>> tuned = cf.train.finetune(small, Corpus.open("corpus"), config=config)
    >>> tuned.model.save("my-model")
    """
    train_genes = min(model.config.max_genes, _MAX_GENES)
    config = config or TrainConfig(steps=200, validate_every=20, learning_rate=1e-4, train_genes=train_genes)
    if model.config.lora_rank:
        raise InputError("The model has adapters already; merge them first.")
    engine = start_engine(model.backend if backend == "auto" else backend)
    engine.check_training(config)
    feed = _feed(model, data, config, engine)
    validation = feed.validation()
    if not validation:
        raise InputError("There are no validation cells to decide when to stop; hold some out.")
    if objective is None:
        n_keys = 2 * model.config.n_layers if config.dropout else 0
        objective = Objective(pretraining(model.config, config), n_keys)
    weights = model.weights
    if method == "lora":
        seed = config.random_state
        weights = add_adapters(model.config, weights, lora_rank, random_state=seed, last_layers=lora_layers)
    trained = not_frozen(_trained(weights, objective, method), config)
    trainer = engine.trainer(objective, weights | objective.weights, trained, config, nest)
    evaluate = criterion(trainer, objective, validation, engine)
    with clear_memory_errors(config, feed.min_chunks, "The model is unchanged."):
        best, history = _train(trainer, feed, evaluate, trained, config, patience)
    trainer.load(best.weights)
    final = trainer.weights()
    head = {name: final.pop(name) for name in objective.weights}
    tuned = CellFM(model.config, model.vocab, merged_weights(final), name=f"{model.name} (fine-tuned)")
    tuned.backend = model.backend
    head = {name.removeprefix(HEAD): array for name, array in head.items() if not name.startswith(FIXED)}
    return Finetuned(tuned, head, history, best.step)


@dataclass(frozen=True)
class _Best:
    step: int
    loss: float
    weights: dict[str, np.ndarray]


def _feed(model: CellFM, data: Cells | Batches, config: TrainConfig, engine: Engine) -> Batches:
    if isinstance(data, Batches):
        return data
    if data.vocab.hash != model.vocab.hash:
        raise InputError("The cells have another vocabulary than the model.")
    return Feed(data, model.config, config, n_parts=engine.n_local)


def _trained(weights: dict[str, np.ndarray], objective: Objective, method: Method) -> list[str]:
    """Names of the weights to train."""
    head = [HEAD + name for name in objective.head]
    if method == "frozen":
        trained = head
    elif method == "lora":
        trained = [name for name in weights if name.endswith((".a.weight", ".b.weight"))] + head
    elif method == "full":
        trained = [*weights, *head]
    else:
        raise InputError(f"method must be 'frozen', 'lora' or 'full', not {method!r}.")
    if not trained:
        raise InputError("Nothing to train: the objective adds no weights, and method='frozen' keeps the others.")
    return trained


def _train(
    trainer: Trainer,
    feed: Batches,
    evaluate: Callable[[], float],
    trained: list[str],
    config: TrainConfig,
    patience: int,
) -> tuple[_Best, pd.DataFrame]:
    best = _Best(0, evaluate(), _arrays(trainer, trained))
    rows = [{"step": 0, "loss": np.nan, "validation_loss": best.loss}]
    losses: list[float] = []
    waited = 0
    with progress(config.steps, "fine-tuning", "steps") as bar:
        for done in range(1, config.steps + 1):
            batch = feed.batch(done - 1)
            losses.append(trainer(batch.micro, done - 1).loss)
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
                best, waited = _Best(done, found, _arrays(trainer, trained)), 0
            if waited >= patience:
                logger.info("stopped at step %d: no improvement for %d validations.", done, patience)
                break
    return best, pd.DataFrame(rows)


def _arrays(trainer: Trainer, names: list[str]) -> dict[str, np.ndarray]:
    weights = trainer.weights()
    return {name: weights[name] for name in names}
