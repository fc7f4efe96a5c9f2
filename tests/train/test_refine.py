"""Refinement of the start: its loss is right, it does what it says, and it touches nothing else."""

import numpy as np
import pytest
import scipy.sparse as sp

from cellfm.cells.tokenize import tokenize
from cellfm.config import ModelConfig, TrainConfig
from cellfm.corpus._cell_table import CellTable
from cellfm.engines import apply
from cellfm.model import CellFM
from cellfm.nn.weights import nest
from cellfm.train._refine import TEMPERATURE, TRAINED, SourceCells, _draw, contrast_loss, first_cls, refine
from cellfm.train._start import CLS_KEY, coexpression_start, component_dims, open_glu, start_weights

N_CELLS, N_GENES = 120, 200
CONFIG = ModelConfig(n_layers=1, d_model=48, n_heads=2, n_genes=N_GENES, d_value=64)


def loss_of(images: np.ndarray, wanted: np.ndarray) -> float:
    """The loss that the refinement lowers, row by row."""
    unit = images / np.linalg.norm(images, axis=1, keepdims=True)
    found = []
    for row, asked in zip(unit, wanted, strict=True):
        seen = asked >= 0
        if asked[seen].sum() > 0:
            logits = unit[seen] @ row / TEMPERATURE
            found.append(-(asked[seen] * (logits - np.log(np.exp(logits).sum()))).sum())
    return float(np.mean(found))


@pytest.fixture
def source() -> SourceCells:
    """Cells of three types that differ in a third of their genes; the last 20 genes are silent."""
    generator = np.random.default_rng(0)
    types = np.arange(N_CELLS) % 3
    mean = generator.gamma(0.5, 2.0, (3, N_GENES))[types]
    mean[:, -20:] = 0
    components = np.eye(3)[types] + 0.1 * generator.standard_normal((N_CELLS, 3))
    components /= np.linalg.norm(components, axis=1, keepdims=True)
    counts = sp.csr_matrix(generator.poisson(mean * 4).astype(np.float32))
    return SourceCells(counts, types, components.astype(np.float32))


@pytest.fixture
def start() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    loadings, average = generator.standard_normal((N_GENES + 1, 32)), generator.standard_normal(32)
    return open_glu(CONFIG, start_weights(CONFIG, loadings, average))


def refined(start: dict[str, np.ndarray], sources: list[SourceCells], n_steps: int, **seed) -> dict[str, np.ndarray]:
    return refine(CONFIG, start, component_dims(CONFIG), CLS_KEY, sources, n_steps, **seed)


def read_by_cls(weights: dict[str, np.ndarray], values: sp.csr_matrix) -> np.ndarray:
    """What CLS reads of cells whose values (n_cells, n_genes + 1) are given, as the refinement takes it."""
    components = component_dims(CONFIG)
    read = np.zeros((values.shape[0], CONFIG.d_model), np.float32)
    gene, cls = weights["embed.gene"][: values.shape[1], components], weights["embed.cls"].reshape(-1)[components]
    read[:, components] = values @ gene + CLS_KEY * cls
    return read


def images_of(weights: dict[str, np.ndarray], values: sp.csr_matrix) -> np.ndarray:
    return apply(lambda xp, p, read: first_cls(xp, CONFIG, nest(p), read), weights, read_by_cls(weights, values))


def test_rows_that_see_nothing_change_no_loss():
    generator = np.random.default_rng(0)
    images, wanted = generator.standard_normal((8, 3)), generator.random((8, 8))
    np.fill_diagonal(wanted, 0)
    wanted = wanted / wanted.sum(1, keepdims=True) - np.eye(8)
    more = np.vstack((images, np.ones((2, 3)))), np.pad(wanted, ((0, 2), (0, 2)), constant_values=-1)
    for given in ((images, wanted), more):
        assert apply(contrast_loss, *map(np.float32, given)) == pytest.approx(loss_of(images, wanted), rel=1e-4)


def test_what_is_refined_is_cls_of_the_network(source, start, tiny_vocab):
    config = ModelConfig(n_layers=1, d_model=48, n_heads=2, n_genes=len(tiny_vocab), d_value=64)
    weights = start | {"embed.gene": np.zeros((config.n_gene_rows, 48), np.float32)}
    weights["embed.gene"][: N_GENES + 1] = start["embed.gene"][: N_GENES + 1]
    tokens = tokenize(source.counts, np.arange(1, N_GENES + 1, dtype=np.int32), max_genes=N_GENES)
    values = sp.csr_matrix((tokens.values, tokens.gene_ids, tokens.indptr), (N_CELLS, N_GENES + 1))
    found, expected = CellFM(config, tiny_vocab, weights).encode(tokens).cell, images_of(start, values)
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.99


def test_what_belongs_together_comes_nearer(source, start):
    values, wanted = _draw(source, N_GENES + 1, np.random.default_rng(9))  # views that no step has seen
    losses = [loss_of(images_of(refined(start, [source], n_steps), values), wanted) for n_steps in (0, 40, 120)]
    assert losses[2] < losses[1] < losses[0]


def test_the_seed_decides_and_what_is_not_trained_stays(source, start):
    before = {name: array.copy() for name, array in start.items()}
    runs = [refined(start, [source, source], 3, random_state=seed) for seed in (0, 0, 1)]
    for name, array in runs[0].items():
        np.testing.assert_array_equal(array, runs[1][name])
        np.testing.assert_array_equal(start[name], before[name])
        if name not in (*TRAINED, "embed.gene", "embed.cls"):
            np.testing.assert_array_equal(array, before[name])
    assert (runs[0]["embed.gene"] != runs[2]["embed.gene"]).any()
    np.testing.assert_array_equal(runs[0]["embed.gene"][N_GENES - 19 :], before["embed.gene"][N_GENES - 19 :])


def test_too_few_cells_change_nothing(source, start):
    few = SourceCells(source.counts[:5], source.types[:5], source.components[:5])
    found = refined(start, [few], 3)
    for name in TRAINED:
        np.testing.assert_array_equal(found[name], start[name])
    np.testing.assert_array_equal(found["embed.gene"], start["embed.gene"])


@pytest.mark.parametrize("labelled", [True, False])
def test_the_start_is_refined(tiny_vocab, source, labelled):
    ids = np.arange(1, N_GENES + 1, dtype=np.int32)
    columns = {"source": np.zeros(N_CELLS, np.int32)} | (
        {"cell_type": source.types.astype(np.int32)} if labelled else {}
    )
    cells = CellTable.from_counts(source.counts, ids, tiny_vocab, np.zeros(N_CELLS, bool), columns)
    config = ModelConfig(n_layers=1, d_model=48, n_heads=4, n_genes=len(tiny_vocab), d_value=32)
    train = [TrainConfig(start="coexpression", type_column="cell_type", refine_steps=steps) for steps in (0, 4, 4)]
    plain, refined, again = (coexpression_start(cells, config, one) for one in train)
    assert (refined["embed.gene"] != plain["embed.gene"]).any()
    for name, array in refined.items():
        np.testing.assert_array_equal(array, again[name])
