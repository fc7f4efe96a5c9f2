"""Baselines: they learn what can be learnt, from the training cells only."""

import logging

import numpy as np
import pytest
import scipy.sparse as sp

from cellfm._adata import read_matrix
from cellfm.tasks.annotation import _baselines
from cellfm.tasks.annotation._baselines import celltypist, celltypist_name, log_normalised, logistic_regression


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
    monkeypatch.setattr(_baselines, "N_TOP_GENES", n_top_genes)
    train, labels, test, truth = parts
    found = logistic_regression(train, labels, test)
    assert (found.labels == truth).mean() > 0.8
    assert ((found.confidence >= 0.5) & (found.confidence <= 1)).all()


def test_test_cells_change_nothing_in_the_fit(parts, monkeypatch):
    monkeypatch.setattr(_baselines, "N_TOP_GENES", 100)
    train, labels, test, _ = parts
    together = logistic_regression(train, labels, test)
    alone = [logistic_regression(train, labels, test[[i]]).confidence[0] for i in range(test.shape[0])]
    np.testing.assert_allclose(together.confidence, alone, rtol=1e-5)


def test_celltypist_learns_and_leaves_the_logging_alone(parts):
    pytest.importorskip("celltypist", reason="needs celltypist: pip install 'cellfm[annotation-baselines]'")
    before = list(logging.root.handlers)
    train, labels, test, truth = parts
    found = celltypist(train, labels, test)
    assert (found.labels == truth).mean() > 0.8
    assert found.confidence.shape == truth.shape
    assert logging.root.handlers == before
    assert celltypist_name() in ("celltypist", "celltypist (SGD)")


def test_without_celltypist_it_has_no_name(monkeypatch):
    monkeypatch.setattr(_baselines.importlib.util, "find_spec", lambda name: None)
    assert celltypist_name() is None
