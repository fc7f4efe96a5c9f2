"""Baselines: they learn what can be learnt, from the training cells only."""

import logging

import numpy as np
import pytest
import scipy.sparse as sp

from cellfm.cells.matrix import read_matrix
from cellfm.tasks.annotation import _baselines, _features
from cellfm.tasks.annotation._baselines import celltypist, celltypist_name, logistic_regression
from cellfm.tasks.annotation._features import component_features, gene_features, log_normalised


@pytest.fixture
def parts(tiny_adata):
    values = log_normalised(read_matrix(tiny_adata))
    labels = tiny_adata.obs["label"].to_numpy().astype(str)
    return values[:30], labels[:30], values[30:], labels[30:]


def test_log_normalised_is_log1p_of_counts_per_ten_thousand(tiny_adata):
    dense = tiny_adata.X.toarray()
    dense[3] = 0
    tiny_adata.X = sp.csr_matrix(dense)
    with np.errstate(invalid="ignore"):
        expected = np.nan_to_num(np.log1p(dense / dense.sum(1, keepdims=True) * 1e4))
    np.testing.assert_allclose(log_normalised(read_matrix(tiny_adata)).toarray(), expected, rtol=1e-5)


def test_logarithms_stay_as_they_are(tiny_adata):
    tiny_adata.X = log_normalised(read_matrix(tiny_adata))
    np.testing.assert_array_equal(log_normalised(read_matrix(tiny_adata)).toarray(), tiny_adata.X.toarray())


@pytest.mark.parametrize("n_top_genes", [2000, 100])
def test_logistic_regression_learns(parts, monkeypatch, n_top_genes):
    monkeypatch.setattr(_features, "N_TOP_GENES", n_top_genes)
    train, labels, test, truth = parts
    found = logistic_regression(component_features(gene_features(train, test)), labels)
    assert (found.labels == truth).mean() > 0.8
    assert ((found.confidence >= 0.5) & (found.confidence <= 1)).all()


def test_components_are_those_of_the_training_cells(parts):
    from sklearn.decomposition import PCA

    train, _, test, _ = parts
    found = component_features(gene_features(train, test))
    expected = PCA(29, svd_solver="full").fit(train.toarray())
    leading = slice(0, 3)  # the others are noise
    for some, cells in ((found.train, train), (found.test, test)):
        np.testing.assert_allclose(
            np.abs(some[:, leading]), np.abs(expected.transform(cells.toarray())[:, leading]), rtol=0.02, atol=0.05
        )


def test_test_cells_change_nothing_in_the_fit(parts, monkeypatch):
    monkeypatch.setattr(_features, "N_TOP_GENES", 100)
    train, _, test, _ = parts
    together = component_features(gene_features(train, test))
    for i in range(test.shape[0]):
        alone = component_features(gene_features(train, test[[i]]))
        np.testing.assert_allclose(together.test[i], alone.test[0], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(together.train, alone.train)


def test_genes_are_chosen_by_the_training_cells(parts, monkeypatch):
    monkeypatch.setattr(_features, "N_TOP_GENES", 100)
    train, _, test, _ = parts
    silent = train.toarray()
    silent[:, :150] = 0
    found = gene_features(sp.csr_matrix(silent), test)
    assert found.train.shape == (30, 100)
    whole = test.toarray()
    for column in found.test.T:  # each is a gene that training cells express
        assert (np.abs(whole[:, 150:] - column[:, None]).max(0) == 0).any()


def test_celltypist_learns_and_leaves_the_logging_alone(parts):
    pytest.importorskip("celltypist", reason="needs celltypist: pip install 'cellfm[annotation-baselines]'")
    before = list(logging.root.handlers)
    train, labels, test, truth = parts
    found = celltypist(train, labels, test)
    assert (found.labels == truth).mean() > 0.8
    assert found.confidence.shape == truth.shape
    assert logging.root.handlers == before
    assert celltypist_name() == "celltypist"


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_model_per_class_is_what_celltypist_asks_for(n_classes):
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(0)
    kind = np.arange(90) % n_classes
    x = generator.standard_normal((90, 5)) + np.eye(5)[kind]
    names = np.array(["a", "b", "c"])[kind]
    found = _baselines._OneVsRest(C=0.5, max_iter=500, multi_class="ovr", solver="lbfgs").fit(x, names)
    decisions = found.decision_function(x).reshape(90, -1)
    for i in range(n_classes if n_classes > 2 else 1):
        of_class = kind == (i if n_classes > 2 else 1)
        expected = LogisticRegression(C=0.5, max_iter=500).fit(x, of_class).decision_function(x)
        np.testing.assert_allclose(decisions[:, i], expected, atol=1e-4)
    assert (found.predict(x) == names).mean() > 0.6


def test_without_celltypist_it_has_no_name(monkeypatch):
    monkeypatch.setattr(_baselines.importlib.util, "find_spec", lambda name: None)
    assert celltypist_name() is None
