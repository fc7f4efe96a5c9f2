"""`cf.train.pretrain`: train a model on a corpus of shards."""

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from cellfm.config import ModelConfig, TrainConfig
from cellfm.corpus._corpus import Corpus
from cellfm.engines import Backend, Engine, Objective, start_engine
from cellfm.engines.training import not_frozen
from cellfm.errors import InputError, MissingKeyError
from cellfm.io.logging import logger
from cellfm.model import CellFM
from cellfm.nn.objectives import pretraining
from cellfm.nn.parameters import initial_weights
from cellfm.nn.weights import nest
from cellfm.train._feed import Feed
from cellfm.train._loop import train
from cellfm.train._processes import require_same, require_well, wait_for_all
from cellfm.train._recipes import model_of, read_config, read_tables
from cellfm.train._run import RunFolder
from cellfm.train._start import coexpression_start
from cellfm.train._validate import Validation


def pretrain(
    shards: str | Path | Corpus,
    config: str | Path | dict[str, Any] | None = None,
    *,
    out: str | Path,
    start: CellFM | None = None,
    backend: Backend = "auto",
) -> CellFM:
    """Pretrain a model on a corpus, or continue a run (Zeng 2025, Methods, "Training").

    The values of some genes of each cell are hidden and predicted, from the gene's token and from the cell's embedding.
    The run may be interrupted at any time, by Ctrl-C or a crash: the same call continues from the last checkpoint and
    gives the same numbers as an uninterrupted run.

    Parameters
    ----------
    shards
        A corpus from `cf.train.write_shards`, or its folder.
    config
        A preset (``"mini"``, ``"80M"``, ``"800M"``), a TOML file or a dict with the entries ``preset``, ``model``
        (fields of `ModelConfig`) and ``train`` (fields of `TrainConfig`).
    out
        Folder of the run. `cf.load_model` reads it.
    start
        Model to start from; by default weights are initialised at random.
    backend
        Engine: ``"jax"`` (CPUs, NVIDIA GPUs, TPUs; all devices of all processes), ``"mindspore"`` (Ascend NPUs, and
        CPUs), or ``"auto"``: MindSpore if there is an Ascend NPU, otherwise JAX. A run can continue with the other
        engine.

    Returns
    -------
    The model. Writes ``run.json``, ``log.csv``, ``checkpoints/`` and ``model/`` to `out`.

    Raises
    ------
    InputError
        The configuration is invalid, the shards have another vocabulary, or the folder holds another run.
    TrainingError
        The loss is NaN or infinite; the message names the last good checkpoint.
    TrainingStopped
        After Ctrl-C or SIGTERM, when a checkpoint has been written; it is a KeyboardInterrupt.

    Examples
    --------
    >>> shape = {"n_layers": 1, "d_model": 32, "n_heads": 2, "d_value": 16}
    >>> config = {"model": shape, "train": {"steps": 2, "batch_size": 8}}
    >>> small = cf.train.pretrain("corpus", config, out="run")
    >>> cf.tl.embed(adata, "run")
    """
    engine = start_engine(backend)
    rank, size = engine.join_processes()  # first, because MindSpore's scheduler also runs this and never returns
    corpus = shards if isinstance(shards, Corpus) else Corpus.open(shards)
    model_fields, train_config = read_config(config)
    if start is None:
        model_config = _model_config(model_fields, corpus, train_config)
    else:
        model_config = _config_of_start(start, read_tables(config)["model"], corpus)
    if train_config.zero_fraction and not model_config.zero_modelling:
        raise InputError("zero_fraction above 0 needs a model with zero_modelling = true.")
    _check_columns(corpus, train_config)
    engine.check_training(train_config)
    feed = Feed(corpus, model_config, train_config, rank=rank, size=size, n_parts=engine.n_local)
    run = RunFolder(out)
    start_hash = start.weights_hash if start is not None else None
    facts = {
        "model": dataclasses.asdict(model_config),
        "train": dataclasses.asdict(train_config),
        "vocabulary_sha256": corpus.vocab.hash,
        "corpus": {"n_cells": int(corpus.n_cells), "n_training": len(feed.train)},
        "start": start_hash,
    }
    require_same(engine, {"corpus": corpus.manifest, "configuration": facts, "model to start from": start_hash})
    with ExitStack() as stack:
        refused: Exception | None = None
        if rank == 0:
            try:
                stack.enter_context(run.opened(facts))
            except (InputError, OSError) as error:
                refused = error
        require_well(engine, refused)
        return _train(engine, feed, corpus, start, run)


def _train(engine: Engine, feed: Feed, corpus: Corpus, start: CellFM | None, run: RunFolder) -> CellFM:
    model_config, train_config = feed.model, feed.config
    weights = _starting_weights(model_config, train_config, corpus, start)
    n_keys = 2 * model_config.n_layers if train_config.dropout else 0
    objective = Objective(pretraining(model_config, train_config), n_keys)
    trainer = engine.trainer(objective, weights, not_frozen(weights, train_config), train_config, nest, rank=feed.rank)
    validation = Validation(feed, objective, trainer, engine)
    is_writer = feed.rank == 0
    train(engine, trainer, feed, train_config, run, validation, is_writer=is_writer)

    model = CellFM(model_config, corpus.vocab, trainer.weights(), name=run.path.name)
    if is_writer:
        model.save(run.model, overwrite=True)
        logger.info("wrote the model to %s.", run.model)
    wait_for_all(engine)
    return model


def _model_config(fields: dict[str, Any], corpus: Corpus, config: TrainConfig) -> ModelConfig:
    fields = {"zero_modelling": config.zero_fraction > 0} | fields
    model = model_of(fields, n_genes=len(corpus.vocab))
    if model.n_genes != len(corpus.vocab):
        raise InputError(f"n_genes is {model.n_genes:,}, but the corpus has {len(corpus.vocab):,} genes; leave it out.")
    return model


def _config_of_start(start: CellFM, asked: dict[str, Any], corpus: Corpus) -> ModelConfig:
    corpus.require_vocabulary(start.vocab)
    for name, value in asked.items():
        if getattr(start.config, name) != value:
            raise InputError(
                f"The model to start from has {name} = {getattr(start.config, name)!r}, and the configuration asks for "
                f"{value!r}. Leave out [model]: the model has its own."
            )
    return start.config


def _check_columns(corpus: Corpus, config: TrainConfig) -> None:
    wanted = {config.batch_by} if config.batch_by else set()
    if config.type_weight:
        wanted |= {config.type_column, "source"}
    for column in sorted(wanted):
        if column not in corpus.columns:
            raise MissingKeyError(f"The corpus has no column {column!r}; available: {', '.join(corpus.columns)}.")


def _starting_weights(
    model: ModelConfig, config: TrainConfig, corpus: Corpus, start: CellFM | None
) -> dict[str, np.ndarray]:
    if start is not None:
        return start.weights
    if config.start == "coexpression":
        return coexpression_start(corpus, model, config)
    return initial_weights(model, config.random_state)
