"""The engines agree: the same start, data and seed give the same numbers after 20 steps of every task, in either."""

import dataclasses
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from nn_inputs import laid_out
from on_engine import run
from small_runs import rows

import cellfm as cf
from cellfm.cells.tokenize import TokenBatch, tokenize
from cellfm.config import ModelConfig, TrainConfig
from cellfm.corpus._cell_table import CellTable
from cellfm.engines import start_engine
from cellfm.genes.vocabulary import Vocabulary
from cellfm.model import CellFM
from cellfm.nn.heads import mlp_head_weights
from cellfm.nn.integration import IntegrationWeights
from cellfm.nn.network import embed_cells
from cellfm.tasks.integration._integrate import IntegrationOptions, integrate_cells
from cellfm.tasks.perturbation._conditions import CONTROL, Conditions
from cellfm.tasks.perturbation._graphs import coexpression_graph, term_graph
from cellfm.tasks.perturbation._profiles import mean_profiles
from cellfm.tasks.perturbation._recipe import Recipe
from cellfm.tasks.perturbation._split import Split
from cellfm.tasks.perturbation._train import NetworkInput, train_network
from cellfm.train import finetune, pretrain, write_shards
from cellfm.train._classify import train_classifier

N_STEPS, N_GENES, N_CELLS = 20, 60, 24
GENE_IDS = np.arange(1, N_GENES + 1, dtype=np.int32)
HELD_OUT = np.arange(N_CELLS) % 5 == 0
JAX = start_engine("jax")
slow = partial(pytest.param, marks=pytest.mark.slow)
"""Further ways of a task, for the weekly run of slow tests."""
Weights = dict[str, np.ndarray]
Trained = tuple[list[float], Weights]
"""Losses and weights."""


@pytest.fixture(scope="module")
def vocab() -> Vocabulary:
    return Vocabulary(pd.DataFrame({"symbol": [f"GENE{i}" for i in range(N_GENES)]}))


@pytest.fixture(scope="module")
def model(vocab: Vocabulary) -> CellFM:
    return CellFM(ModelConfig(1, 16, 2, N_GENES, d_value=8, max_genes=60), vocab, random_state=2)


@pytest.fixture(scope="module")
def counts() -> sp.csr_matrix:
    generator = np.random.default_rng(0)
    mean = generator.gamma(2.0, 2.0, (2, N_GENES))[np.arange(N_CELLS) % 2]
    return sp.csr_matrix(generator.poisson(mean + 0.5).astype(np.float32))


@pytest.fixture(scope="module")
def tokens(counts: sp.csr_matrix) -> TokenBatch:
    return tokenize(counts, GENE_IDS, max_genes=60)


def require_same(ours: Trained, theirs: Trained, *, within: float = 1e-5, losses_within: float = 1e-5) -> None:
    """Losses agree within `losses_within`, also of their size, weights within `within`."""
    (losses, weights), (other_losses, others) = ours, theirs
    assert len(losses) == len(other_losses)
    np.testing.assert_allclose(other_losses, losses, rtol=losses_within, atol=losses_within)
    assert weights.keys() == others.keys()
    away = {name: float(np.abs(others[name] - array).max()) for name, array in weights.items()}
    assert max(away.values()) < within, sorted(away.items(), key=lambda item: -item[1])[:5]


def by_both(task: Callable[[Any], Trained], **tolerances: float) -> list[Weights]:
    """Train by both engines, which must agree; the weights."""
    pytest.importorskip("mindspore")
    found = [task(backend) for backend in ("jax", "mindspore")]
    require_same(*found, **tolerances)
    return [weights for _, weights in found]


def require_moved(weights: Weights, start: Weights) -> None:
    """What was trained is far from its start by the measure that the engines are compared by."""
    assert max(np.abs(weights[name] - array).max() for name, array in start.items()) > 1e-3


@cache
def cls_of(config: ModelConfig) -> Callable[..., Any]:
    def of_cells(xp, p, values, gene_ids, mask, chunk_cell, cls_row):
        return embed_cells(xp, config, p, values, (gene_ids, mask, chunk_cell, cls_row))

    return of_cells


def require_same_embeddings(tokens: TokenBatch, config: ModelConfig, weights: Weights, others: Weights) -> None:
    """CLS by what each engine has learned: within 1e-5 for nine cells of ten, and within 1e-4 for all.

    Norms enlarge what weights differ by after training, 2e-6, and in a cell or two also what rounding differs by.
    """
    n = tokens.n_cells
    chunks = laid_out(tokens, config, n_chunks=2 * n, n_slots=n)
    arrays = (chunks.values, chunks.gene_ids, chunks.mask, chunks.chunk_cell, chunks.cls_row)
    one, other = (run(JAX, cls_of(config), some, *arrays) for some in (weights, others))
    away = np.abs(one - other).max(1)
    assert np.quantile(away, 0.9) < 1e-5, np.sort(away)
    assert away.max() < 1e-4


# Adam divides by the size of the gradient plus epsilon: with 1e-8, one that is rounding alone moves a weight by a whole
# step, and in either direction.
SHAPE = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_value": 8, "max_genes": 60, "depth_tokens": True}
FIRST, BACK, EVERY = 5, 15, 5
"""Steps at which a run of JAX goes on in MindSpore, and that one in JAX again; steps between checkpoints."""
PRETRAIN = {
    "steps": FIRST + N_STEPS, "batch_size": 6, "n_chunks": 10, "train_genes": 50, "dropout": 0.2, "learning_rate": 2e-3,
    "contrast_weight": 1.0, "type_weight": 1.0, "zero_fraction": 0.2, "thin_probability": 0.5, "optimizer": "adamw",
    "clip": "global", "log_every": 1, "validate_every": 10, "checkpoint_every": EVERY, "keep_checkpoints": 9,
    "epsilon": 1e-5,
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, vocab: Vocabulary, counts: sp.csr_matrix) -> Path:
    out = tmp_path_factory.mktemp("engines") / "corpus"
    obs = pd.DataFrame({"cell_type": np.array(["A", "B"])[np.arange(N_CELLS) % 2]}, index=map(str, range(N_CELLS)))
    cells = AnnData(counts, obs=obs, var=pd.DataFrame(index=list(vocab.symbols)))
    write_shards(cells, out, model=vocab, min_genes=1, validation_fraction=0.2)
    return out


def trained(corpus: Path, out: Path, backend: Any, origin: Path | None = None, step: int = 0) -> Trained:
    """Train by an engine, from the start or from a checkpoint of another run."""
    if origin is not None:
        shutil.copytree(origin, out)
        shutil.rmtree(out / "model")
        for later in range(step + EVERY, PRETRAIN["steps"] + 1, EVERY):
            shutil.rmtree(out / "checkpoints" / f"step-{later:09d}")
    model = pretrain(corpus, {"model": SHAPE, "train": PRETRAIN}, out=out, backend=backend)
    columns = ("loss", "gene", "cell", "contrast", "type", "validation_loss")
    return [float(row[name]) for row in rows(out) for name in columns if row[name]], model.weights


def test_pretraining_with_every_term_goes_on_in_the_other_engine(tmp_path: Path, corpus: Path, tokens: TokenBatch):
    """A run of JAX goes on in MindSpore for 20 steps, and that one in JAX; both end where JAX alone does."""
    pytest.importorskip("mindspore")
    alone = trained(corpus, tmp_path / "alone", "jax")
    other = trained(corpus, tmp_path / "other", "mindspore", tmp_path / "alone", FIRST)
    back = trained(corpus, tmp_path / "back", "jax", tmp_path / "other", BACK)
    assert len(rows(tmp_path / "back")) == PRETRAIN["steps"] == FIRST + N_STEPS
    for found in (other, back):
        require_same(found, alone)
    model = cf.load_model(tmp_path / "alone")
    require_same_embeddings(tokens, model.config, alone[1], other[1])
    require_moved(alone[1], CellFM(model.config, model.vocab, random_state=0).weights)


FINETUNE = TrainConfig(
    steps=N_STEPS, batch_size=6, n_chunks=10, learning_rate=2e-3, validate_every=5, dropout=0.1, train_genes=50,
    epsilon=1e-5,
)  # fmt: skip


@pytest.mark.parametrize("method", ["full", slow("lora")])
def test_finetuning(model: CellFM, vocab: Vocabulary, counts: sp.csr_matrix, tokens: TokenBatch, method: Any):
    cells = CellTable.from_counts(counts, GENE_IDS, vocab, HELD_OUT)

    def task(backend: Any) -> Trained:
        tuned = finetune(model, cells, method=method, config=FINETUNE, lora_rank=4, backend=backend)
        assert tuned.best_step
        return list(tuned.history[["loss", "validation_loss"]].iloc[1:].to_numpy().ravel()), tuned.model.weights

    weights, others = by_both(task)
    require_same_embeddings(tokens, model.config, weights, others)
    require_moved(weights, model.weights)


@pytest.mark.parametrize(("method", "with_queries"), [("lora", False), slow("full", False), slow("full", True)])
def test_annotators(model: CellFM, counts: sp.csr_matrix, method: Any, with_queries: bool):
    # The validation cells are the training cells once more, so that what is learned shows in them.
    tokens = tokenize(sp.vstack([counts, counts]).tocsr(), GENE_IDS, max_genes=60)
    n, label = tokens.n_cells, np.arange(tokens.n_cells) % 2
    cls = model.encode(tokens).cell
    head = mlp_head_weights(16, 2, n_layers=2) | {"mean": cls.mean(0), "scale": cls.std(0) + 0.1}

    def task(backend: Any) -> Trained:
        tuned, weights, history = train_classifier(
            model, tokens, label, np.ones(n, np.float32), np.arange(n) >= N_CELLS, 2,
            head=None if with_queries else head, method=method, lora_rank=4, n_epochs=N_STEPS // 4, batch_size=6,
            learning_rate=1e-3, patience=99, random_state=0, backend=backend,
        )  # fmt: skip
        # The bias that a query head gives to all classes alike changes no loss: what moves it is rounding.
        of_head = {
            f"head.{name}": array for name, array in weights.items() if not with_queries or name != "output.bias"
        }
        return list(history[["loss", "validation_loss"]].iloc[1:].to_numpy().ravel()), tuned.weights | of_head

    weights, others = by_both(task)
    of_network = [{name: some[name] for name in model.weights} for some in (weights, others)]
    require_same_embeddings(tokens, model.config, *of_network)
    require_moved(weights, model.weights)


@pytest.mark.parametrize("adversary", [1.0, slow(0.0)])
def test_integration(model: CellFM, counts: sp.csr_matrix, tokens: TokenBatch, adversary: float):
    options = IntegrationOptions(
        method="lora", lora_rank=4, lora_layers=None,
        weights=IntegrationWeights(adversary, structure=1.0, masked=1.0, elastic=0.5, discrepancy=0.5),
        zero_fraction=0.0, mask_ratio=0.4, steps=N_STEPS, batch_size=8, train_genes=50, learning_rate=1e-3,
        random_state=0,
    )  # fmt: skip
    batches = np.where(np.arange(N_CELLS) < 12, "one", "two")

    def task(backend: Any) -> Trained:
        found = integrate_cells(model, counts, GENE_IDS, batches, dataclasses.replace(options, backend=backend))
        return list(found.history.drop(columns="step").iloc[1:].to_numpy().ravel()), found.model.weights

    weights, others = by_both(task)
    require_same_embeddings(tokens, model.config, weights, others)
    require_moved(weights, model.weights)


def test_perturbation():
    generator = np.random.default_rng(0)
    genes = tuple("ABCDEF")
    singles = [(gene,) for gene in genes]
    pairs = [("A", "B"), ("C", "D"), ("E", "F"), ("A", "C")]
    conditions = (CONTROL, *sorted([*singles, *pairs]))
    cells = Conditions(conditions, np.repeat(np.arange(len(conditions)), 6))
    values = sp.csr_matrix(generator.gamma(2.0, 1.0, (6 * len(conditions), 12)).astype(np.float32))
    given = NetworkInput(
        coexpression_graph(values), term_graph({}, genes), generator.standard_normal((12, 4)).astype(np.float32), None
    )
    split = Split((*singles, *pairs[:2]), (pairs[2],), (pairs[3],))
    recipe = Recipe(width=16, n_epochs=4, batch_size=4, bag=3, patience=9, uncertainty=True)
    places = {gene: i for i, gene in enumerate(genes)}

    def task(backend: Any) -> Trained:
        profiles = mean_profiles(values, cells)
        weights, history, predicted = train_network(given, values, cells, profiles, split, places, recipe, backend)
        numbers = history.drop(columns=["epoch", "kept"]).iloc[1:].to_numpy().ravel()
        kept = {name: array for name, array in weights.items() if not name.endswith(("bias", ".mean", ".variance"))}
        return [*numbers, *predicted.ravel()], kept

    # Batch normalisation takes off the biases before it: rounding alone moves them, by whole steps of Adam, and the
    # means that prediction normalises by follow later.
    weights, _ = by_both(task, within=1e-3, losses_within=1e-3)
    start = given.initial(recipe)
    require_moved(weights, {name: start[name] for name in weights})
