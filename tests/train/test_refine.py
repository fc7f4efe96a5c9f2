"""Refinement of gene vectors: its loss is right, it does what it says, and it touches nothing else."""

import numpy as np
import pytest
import scipy.sparse as sp

from cellfm.config import ModelConfig, TrainConfig
from cellfm.corpus._cell_table import CellTable
from cellfm.engines import apply
from cellfm.train._refine import TEMPERATURE, SourceCells, _draw, contrast_gradient, contrast_loss, refine_loadings
from cellfm.train._start import coexpression_start

N_CELLS, N_GENES, N_DIMS = 120, 200, 6


def loss_of(images: np.ndarray, wanted: np.ndarray) -> float:
    """The loss that the refinement lowers, row by row."""
    unit = images / np.linalg.norm(images, axis=1, keepdims=True)
    found = []
    for i, row in enumerate(unit):
        others = np.arange(len(unit)) != i
        logits = unit[others] @ row / TEMPERATURE
        found.append(-(wanted[i, others] * (logits - np.log(np.exp(logits).sum()))).sum())
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
def loadings() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((N_GENES + 1, N_DIMS)).astype(np.float32)


def drawn_images() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    images, wanted = generator.standard_normal((8, 3)), generator.random((8, 8))
    np.fill_diagonal(wanted, 0)
    return images, wanted / wanted.sum(1, keepdims=True)


def test_rows_that_nobody_wants_change_neither_loss_nor_gradient():
    images, wanted = drawn_images()
    more = np.vstack((images, np.ones((2, 3)))), np.pad(wanted, ((0, 2), (0, 2)))
    for given in ((images, wanted), more):
        assert apply(contrast_loss, *map(np.float32, given)) == pytest.approx(loss_of(images, wanted), rel=1e-4)
    np.testing.assert_allclose(contrast_gradient(*more)[:8], contrast_gradient(images, wanted), atol=1e-6)
    np.testing.assert_array_equal(contrast_gradient(*more)[8:], 0)


def test_against_the_gradient_the_loss_falls():
    images, wanted = drawn_images()
    slope = contrast_gradient(images, wanted)
    change = (loss_of(images + 1e-4 * slope, wanted) - loss_of(images - 1e-4 * slope, wanted)) / 2e-4
    assert change == pytest.approx((slope**2).sum(), rel=1e-3)


def test_what_belongs_together_comes_nearer(source, loadings):
    average = np.zeros(N_DIMS, np.float32)
    values, wanted = _draw(source, len(loadings), np.random.default_rng(9))  # views that no step has seen
    least = -(wanted * np.log(np.where(wanted > 0, wanted, 1))).sum() / len(wanted)
    excess = []
    for n_steps in (0, 60, 150):
        refined, shifted = refine_loadings([source], loadings, average, n_steps, random_state=0)
        excess.append(loss_of(values @ refined - shifted, wanted) - least)
    assert excess[2] < excess[1] < excess[0]
    assert excess[2] < 0.8 * excess[0]


def test_the_seed_decides_and_genes_that_are_not_seen_stay(source, loadings):
    average = np.full(N_DIMS, 0.1, np.float32)
    before = loadings.copy()
    runs = [refine_loadings([source, source], loadings, average, 5, random_state=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert (runs[0][0] != runs[2][0]).any()
    np.testing.assert_array_equal(runs[0][0][-20:], loadings[-20:])
    np.testing.assert_array_equal(loadings, before)


def test_too_few_cells_change_nothing(source, loadings):
    few = SourceCells(source.counts[:5], source.types[:5], source.components[:5])
    refined, average = refine_loadings([few], loadings, np.ones(N_DIMS), 3)
    np.testing.assert_array_equal(refined, loadings)
    np.testing.assert_array_equal(average, 1)


@pytest.mark.parametrize("labelled", [True, False])
def test_the_start_takes_refined_loadings(tiny_vocab, source, labelled):
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
