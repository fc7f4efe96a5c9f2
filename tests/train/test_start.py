"""Before any training, CLS of the co-expression start says what principal components say."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from numpy_operations import NumpyOperations
from sklearn.decomposition import PCA

from cellfm.cells.tokenize import tokenize
from cellfm.config import ModelConfig, TrainConfig
from cellfm.corpus._cell_table import CellTable
from cellfm.errors import InputError
from cellfm.model import CellFM
from cellfm.nn.embedding import embed_values
from cellfm.nn.parameters import n_active_layers, parameter_shapes
from cellfm.nn.weights import nest
from cellfm.train import pretrain, write_shards
from cellfm.train._start import (
    N_VALUE_DIMS,
    REST,
    coexpression_start,
    gene_loadings,
    gene_scales,
    profile_loadings,
    start_weights,
)

N_GENES = 300
IDS = np.arange(1, N_GENES + 1, dtype=np.int32)


def cells_of(vocab, n_cells: int, *, n_types: int = 5, n_sources: int = 1) -> CellTable:
    """Cells of some types that differ in their genes and depth."""
    generator = np.random.default_rng(0)
    kind, source = np.arange(n_cells) % n_types, np.arange(n_cells) * n_sources // n_cells
    mean = generator.gamma(0.5, 2.0, (n_types, N_GENES))[kind] * generator.gamma(2.0, 0.5, (n_sources, N_GENES))[source]
    counts = generator.poisson(mean * generator.uniform(2, 6, (n_cells, 1))).astype(np.float32)
    return CellTable.from_counts(
        sp.csr_matrix(counts), IDS, vocab, np.zeros(n_cells, bool), {"source": source.astype(np.int32)}
    )


def adata_of(cells: CellTable) -> AnnData:
    return AnnData(cells.matrix, var=pd.DataFrame(index=list(cells.vocab.symbols)))


def config_of(**fields) -> ModelConfig:
    return ModelConfig(**({"n_layers": 2, "d_model": 48, "n_heads": 4, "n_genes": N_GENES, "d_value": 32} | fields))


def log_normalised(cells: CellTable) -> np.ndarray:
    counts = cells.matrix.toarray().astype(float)
    return np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)


def cls_of(model: CellFM, cells: CellTable) -> np.ndarray:
    return model.encode(tokenize(cells.matrix, IDS, max_genes=N_GENES)).cell


def cosine_distances(points: np.ndarray) -> np.ndarray:
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    return (1 - unit @ unit.T)[np.triu_indices(len(points), 1)]


def agreement(points: np.ndarray, values: np.ndarray) -> float:
    """How well distances of CLS follow those of the principal components of centred values."""
    components = PCA(32, svd_solver="full").fit_transform(values)
    return float(np.corrcoef(cosine_distances(points), cosine_distances(components))[0, 1])


def test_cls_is_like_principal_components(tiny_vocab):
    cells, config = cells_of(tiny_vocab, 120), config_of()
    weights = coexpression_start(cells, config, TrainConfig())
    values = log_normalised(cells)
    started = agreement(cls_of(CellFM(config, tiny_vocab, weights), cells), values)
    at_random = agreement(cls_of(CellFM(config, tiny_vocab), cells), values)
    assert started > 0.8
    assert at_random < started - 0.1


def test_keys_are_the_values():
    """What CLS weighs genes with is their expression; else it sums other than what was centred."""
    config = config_of(n_layers=1, d_value=64)
    loadings = np.random.default_rng(0).standard_normal((N_GENES + 1, config.d_model - N_VALUE_DIMS))
    p = nest(start_weights(config, loadings, np.zeros(loadings.shape[1])))
    values = np.linspace(0, 9, 50, dtype=np.float32)[None]
    tokens = embed_values(NumpyOperations(), p["embed"]["value"], values, np.ones_like(values))
    key = tokens @ p["backbone"][0]["attention"]["key"]["weight"].T
    np.testing.assert_allclose(key, np.broadcast_to(values[..., None], key.shape), atol=0.05)


def test_loadings_span_the_principal_components():
    generator = np.random.default_rng(1)
    values = generator.standard_normal((80, 6)) @ generator.standard_normal((6, 50)) + generator.standard_normal(50)
    loadings, average = gene_loadings([sp.csr_matrix(values)], 6)
    expected = PCA(6, svd_solver="full").fit(values).components_
    # Both are orthonormal: the products are the cosines of the angles between the spaces.
    np.testing.assert_allclose(np.linalg.svd(expected @ loadings, compute_uv=False), 1, atol=1e-6)
    np.testing.assert_allclose(average, values.mean(0) @ loadings, atol=1e-6)


def test_scaled_loadings_give_the_principal_components_of_scaled_genes():
    generator = np.random.default_rng(4)
    values, scales = generator.standard_normal((80, 6)) @ generator.standard_normal((6, 50)), generator.gamma(2, 1, 50)
    loadings, _ = gene_loadings([sp.csr_matrix(values)], 6, scales=scales)
    found = np.linalg.norm((values - values.mean(0)) @ loadings, axis=0)
    expected = PCA(6, svd_solver="full").fit(values * scales).singular_values_
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_common_and_variable_genes_count_less():
    generator = np.random.default_rng(5)
    shown = generator.random((2000, 5)) < (0.9, 0.3, 0.3, 0.05, 0)
    values = np.where(shown, generator.normal(3, (0.1, 0.1, 2, 0.1, 0.1), (2000, 5)), 0)
    common, usual, variable, rare, unseen = gene_scales([sp.csr_matrix(values)])
    assert 0 == unseen < common < usual < rare
    assert variable < usual


def test_a_set_without_a_gene_says_nothing_of_its_scale():
    values = sp.random(200, 20, 0.4, random_state=6, format="csr")
    other = values.multiply(np.arange(20) % 2).tocsr()
    np.testing.assert_allclose(gene_scales([values, other]), gene_scales([values]))


def test_heads_of_the_rest_count_for_their_weight_whatever_their_length(tiny_vocab):
    cells, config = cells_of(tiny_vocab, 60), config_of(d_model=128, n_heads=2)
    loadings = np.random.default_rng(7).standard_normal((N_GENES + 1, 128 - N_VALUE_DIMS))
    loadings[:, 48:] *= 0.01  # a head of 64 dimensions holds 48 components beside those of the value
    images = log_normalised(cells) @ loadings[1:]
    average = images.mean(0)
    leading, rest = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in np.split(images - average, [48], axis=1))
    expected = np.hstack([leading, REST * rest])
    found = cls_of(CellFM(config, tiny_vocab, start_weights(config, loadings, average, noise=0)), cells)
    assert np.corrcoef(cosine_distances(found), cosine_distances(expected))[0, 1] > 0.99


def test_each_source_is_centred_by_itself():
    generator = np.random.default_rng(2)
    direction, shift = np.eye(40)[3], 50 * np.eye(40)[7]
    sets = [
        sp.csr_matrix(
            np.outer(generator.standard_normal(60), direction) + 0.01 * generator.standard_normal((60, 40)) + s
        )
        for s in (0 * shift, shift)
    ]
    loadings, _ = gene_loadings(sets, 1)
    assert abs(loadings[3, 0]) > 0.99, "what differs between sources is no component"


def test_weights_are_those_of_the_configuration(tiny_vocab):
    config = config_of(zero_modelling=True)
    weights = coexpression_start(cells_of(tiny_vocab, 60), config, TrainConfig())
    assert {name: array.shape for name, array in weights.items()} == parameter_shapes(config)
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in weights.values())
    assert not weights["embed.gene"][0].any(), "padding"


def test_layers_above_the_first_start_closed_and_training_opens_them(tiny_vocab, tmp_path):
    cells, config = cells_of(tiny_vocab, 60), config_of(n_layers=3)
    assert n_active_layers(config, coexpression_start(cells, config, TrainConfig())) == 1
    sources = write_shards(adata_of(cells), tmp_path / "corpus", model=tiny_vocab, min_genes=1)
    train = {"start": "coexpression", "steps": 2, "batch_size": 4, "n_chunks": 24, "train_genes": 60, "n_validation": 1}
    fields = {"n_layers": 3, "d_model": 48, "n_heads": 4, "d_value": 32}
    for rate, n_open in ((0.0, 1), (1.0, 3)):
        config = {"model": fields, "train": train | {"other_rate": rate}}
        model = pretrain(sources, config, out=tmp_path / f"run{rate}")
        assert n_active_layers(model.config, model.weights) == n_open


def test_seed_decides(tiny_vocab):
    cells, config = cells_of(tiny_vocab, 60), config_of()
    one, same, other = (coexpression_start(cells, config, TrainConfig(random_state=seed)) for seed in (3, 3, 4))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_fewer_cells_than_dimensions_are_enough(tiny_vocab):
    cells, config = cells_of(tiny_vocab, 12, n_sources=2), config_of()
    model = CellFM(config, tiny_vocab, coexpression_start(cells, config, TrainConfig()))
    assert np.isfinite(cls_of(model, cells)).all()


@pytest.mark.parametrize("fields", [{"norm": "prenorm"}, {"retention": "decay"}, {"lora_rank": 2}, {"d_model": 24}])
def test_networks_it_is_not_made_for_are_refused(tiny_vocab, fields):
    with pytest.raises(
        InputError, match="needs the published form of the layers, no adapters, and d_model of at least 32"
    ):
        coexpression_start(cells_of(tiny_vocab, 20), config_of(**fields), TrainConfig())


def test_profile_loadings_tell_where_genes_are_expressed_and_fill_what_a_set_lacks():
    generator = np.random.default_rng(8)
    levels = generator.gamma(1.0, 3.0, (6, 2)) @ generator.gamma(1.0, 1.0, (2, 200))  # (types, genes), of rank 2
    types = np.repeat(np.arange(6), 10)
    values = [np.log1p(generator.poisson(5 * levels[types])) for _ in range(2)]
    values[1][:, ::2] = 0
    whole, part = sp.csr_matrix(values[0]), sp.csr_matrix(values[1])
    found = profile_loadings([whole, part], [types, types], 2)
    level = np.log1p(levels.mean(0))
    fitted = (
        np.column_stack([found, np.ones(200)])
        @ np.linalg.lstsq(np.column_stack([found, np.ones(200)]), level, rcond=None)[0]
    )
    assert np.corrcoef(fitted, level)[0, 1] > 0.95
    few = profile_loadings([whole[:2]], [types[:2]], 2)
    np.testing.assert_array_equal(few, 0)


def test_too_many_profile_dimensions_are_refused(tiny_vocab):
    with pytest.raises(InputError, match="profile_dims must be"):
        coexpression_start(cells_of(tiny_vocab, 60), config_of(), TrainConfig(start="coexpression", profile_dims=40))


def test_cls_does_not_read_where_genes_are_expressed(tiny_vocab):
    cells, config = cells_of(tiny_vocab, 60), config_of()
    generator = np.random.default_rng(9)
    loadings, average = generator.standard_normal((N_GENES + 1, 26)), generator.standard_normal(26)
    found = []
    for size in (0, 1):
        profiles = size * generator.standard_normal((N_GENES + 1, 6))
        weights = start_weights(config, loadings, average, profiles=profiles, noise=0)
        assert (weights["embed.gene"][1 : N_GENES + 1, -6:] != 0).all() == bool(size)
        found.append(cls_of(CellFM(config, tiny_vocab, weights), cells))
    np.testing.assert_allclose(*found, atol=1e-5)
