"""Integration on arrays: from a model, counts and the batch of each cell to a model that hides the batches."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellfm.cells.chunk import CHUNK, chunks_of
from cellfm.cells.tokenize import TokenBatch, tokenize
from cellfm.config import TrainConfig
from cellfm.corpus._cell_table import CellTable
from cellfm.engines import Backend, Objective, start_engine
from cellfm.errors import InputError
from cellfm.io.progress import progress
from cellfm.model import CellFM
from cellfm.nn.heads import mlp_head_weights
from cellfm.nn.integration import IntegrationWeights, integration
from cellfm.tasks.integration._batches import hold_out
from cellfm.train import finetune
from cellfm.train._feed import Feed
from cellfm.train._integrate_criterion import IntegrationCriterion
from cellfm.train._integrate_feed import IntegrationFeed

MAX_CHUNKS = 256
"""Number of chunks of 64 tokens computed at once, which limits the memory."""
MASKED_PART = 4
"""Masked values are predicted in one of this many chunks."""
GRL_RAMP = 0.1
"""Share of the steps over which the adversary grows to its full strength."""
N_VALIDATIONS = 5
HEAD_RATE = 10.0
"""Ratio of the learning rates of discriminator and network; the discriminator must keep up with the network."""
N_DISCRIMINATOR_LAYERS = 2
SOME_CELLS = 1024


@dataclass(frozen=True)
class IntegrationOptions:
    """How to integrate; `cf.tl.integrate` explains the fields."""

    method: Literal["lora", "full"]
    lora_rank: int
    lora_layers: int | None
    weights: IntegrationWeights
    zero_fraction: float
    mask_ratio: float
    steps: int
    batch_size: int
    train_genes: int
    learning_rate: float
    random_state: int
    backend: Backend = "auto"


@dataclass(frozen=True)
class Integrated:
    """The result of an integration."""

    model: CellFM
    """The fine-tuned model."""
    history: pd.DataFrame
    """A row for each validation: step, training loss, score (lower is better) and its terms."""
    best_step: int
    """Step whose weights were kept."""


def integrate_cells(
    model: CellFM, counts: sp.csr_matrix, gene_ids: np.ndarray, batches: np.ndarray, options: IntegrationOptions
) -> Integrated:
    """Fine-tune a model, without labels, to remove differences between batches from the embedding.

    Parameters
    ----------
    model
        Model to start from; it is not changed.
    counts
        (n_cells, n_vars) of cells that express known genes.
    gene_ids
        (n_vars,) int32: the model's id of each gene, 0 for unknown.
    batches
        (n_cells,) str: two batches or more, of two cells or more.

    Returns
    -------
    The model of the best validation, and the history.
    """
    names, codes = np.unique(batches, return_inverse=True)
    cells = CellTable.from_counts(counts, gene_ids, model.vocab, hold_out(codes, random_state=options.random_state))
    config = train_config(model, cells, options)
    start = _start(model, cells, config)
    n_parts = start_engine(model.backend if options.backend == "auto" else options.backend).n_local
    feed = IntegrationFeed(
        Feed(cells, model.config, config, labels=np.arange(cells.n_cells), n_parts=n_parts),
        codes.astype(np.int32),
        start,
        n_masked=-(-config.n_chunks // MASKED_PART),
        grl_ramp=round(GRL_RAMP * options.steps),
    )
    values = _tokens(cells, slice(0, SOME_CELLS), config).values

    head = mlp_head_weights(
        model.config.d_model, len(names), n_layers=N_DISCRIMINATOR_LAYERS, random_state=options.random_state
    )
    loss = integration(
        model.config,
        config,
        options.weights,
        n_batches=len(names),
        n_masked=feed.n_masked,
        mean_square=float((values**2).mean()),
    )
    fixed = {"mean": start.mean(0), "inv_scale": 1 / (start.std(0) + 1e-3)}
    objective = Objective(loss, head=head, fixed={name: a.astype(np.float32) for name, a in fixed.items()})
    criterion = IntegrationCriterion(model.config, options.weights)
    tuned = finetune(
        model,
        feed,
        objective,
        method=options.method,
        config=config,
        lora_rank=options.lora_rank,
        lora_layers=options.lora_layers,
        patience=N_VALIDATIONS,
        criterion=criterion,
        backend=options.backend,
    )
    history = tuned.history.rename(columns={"validation_loss": "score"}).join(pd.DataFrame(criterion.rows))
    integrated = CellFM(model.config, model.vocab, tuned.model.weights, name=f"{model.name} (integrated)")
    return Integrated(integrated, history, tuned.best_step)


def require_trainable(model: CellFM, options: IntegrationOptions) -> None:
    """Refuse options out of range, and those that the model does not support.

    Raises
    ------
    InputError
        A weight below 0 or no weight at all, a share that is none, zero modelling with a model that was trained
        without it, a model with adapters.
    """
    weights = dataclasses.asdict(options.weights)
    bad = {name: weight for name, weight in weights.items() if not np.isfinite(weight) or weight < 0}
    if bad or not any(weights.values()):
        raise InputError(f"The weights must be 0 or more, and one of them above 0, not {bad or weights}.")
    for name in ("mask_ratio", "learning_rate"):
        value = getattr(options, name)
        if not 0 < value <= 1:
            raise InputError(f"{name} must be above 0 and at most 1, not {value!r}.")
    if not options.zero_fraction >= 0:
        raise InputError(f"zero_fraction must be 0 or more, not {options.zero_fraction!r}.")
    if options.zero_fraction and not model.config.zero_modelling:
        raise InputError(
            f"zero_fraction={options.zero_fraction} needs a model that was trained with zero modelling, which "
            f"{model.name!r} was not. Leave it at 0."
        )
    if model.config.lora_rank:
        raise InputError(f"{model.name!r} has adapters already; merge them first.")


def train_config(model: CellFM, cells: CellTable, options: IntegrationOptions) -> TrainConfig:
    """The recipe: no momentum for the network, so that it does not overshoot the fast discriminator."""
    n_genes = min(options.train_genes, model.config.max_genes, len(model.vocab))
    length = CHUNK if model.config.retention == "linear" else n_genes + model.config.n_special
    shown = np.minimum(cells.lengths * (1 + options.zero_fraction), n_genes).astype(int)
    largest, needed = (chunks_of(n, length, model.config.n_special) for n in (np.array(n_genes), shown))
    batch_size = min(options.batch_size, int((~cells.validation).sum()))
    return TrainConfig(
        steps=options.steps,
        batch_size=batch_size,
        n_chunks=max(int(largest), min(MAX_CHUNKS, int(1.1 * batch_size * needed.mean()))),
        learning_rate=options.learning_rate,
        head_rate=HEAD_RATE,
        beta1=0.0,
        clip="none",
        dropout=0.0,
        weight_decay=0.0,
        target_fraction=options.mask_ratio,
        hide_fraction=1.0,
        zero_fraction=options.zero_fraction,
        train_genes=n_genes,
        validate_every=max(1, options.steps // N_VALIDATIONS),
        n_validation=int(cells.validation.sum()),
        random_state=options.random_state,
    )


def _start(model: CellFM, cells: CellTable, config: TrainConfig) -> np.ndarray:
    """Embeddings by as many genes as in training, (n_cells, d), which the structure term preserves."""
    start = np.empty((cells.n_cells, model.config.d_model), np.float32)
    with progress(cells.n_cells, "embedding", "cells") as bar:
        for first in range(0, cells.n_cells, SOME_CELLS):
            rows = slice(first, first + SOME_CELLS)
            tokens = _tokens(cells, rows, config)
            start[rows] = model.encode(tokens).cell
            bar.update(tokens.n_cells)
    return start


def _tokens(cells: CellTable, rows: slice, config: TrainConfig) -> TokenBatch:
    n_genes = len(cells.vocab)
    ids = np.arange(1, n_genes + 1, dtype=np.int32)
    max_genes = config.train_genes or n_genes
    return tokenize(cells.matrix[rows], ids, max_genes=max_genes, random_state=config.random_state)
