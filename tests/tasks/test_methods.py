"""What the names of methods stand for, and that test labels are out of reach of all of them."""

import numpy as np
import pytest
import scipy.sparse as sp

from cellfm.errors import InputError
from cellfm.tasks.annotation import _methods
from cellfm.tasks.annotation._evaluation_set import EvaluationSet, read_subjects
from cellfm.tasks.annotation._features import Features
from cellfm.tasks.annotation._methods import (
    LOGISTIC_REGRESSION,
    evaluate,
    features_of,
    fit_options,
    require_methods,
    with_baselines,
)
from cellfm.tasks.annotation._metrics import rejection_scores
from cellfm.tasks.annotation._split import Fold


@pytest.fixture
def subjects(tiny_model) -> EvaluationSet:
    """Three kinds of cells, each in a direction of its own; what the model is asked is its embedding alone."""
    labels = np.repeat(["A", "B", "C"], 30)
    embedding = np.random.default_rng(0).normal(size=(90, 16)) + 4 * np.eye(16)[np.repeat([0, 1, 2], 30)]
    return EvaluationSet(tiny_model, None, labels, embedding.astype(np.float32), sp.csr_matrix(np.abs(embedding)))


EVERY_THIRD = np.arange(90) % 3 == 0
FOLD = Fold("1", np.flatnonzero(~EVERY_THIRD), np.flatnonzero(EVERY_THIRD))


def test_names_of_methods():
    require_methods(["frozen", "frozen-2", "frozen-3", "query", "lora", "lora-8", "lora-64", "full", "knn"])
    assert fit_options("lora-8") == {"method": "lora", "lora_rank": 8}
    assert fit_options("frozen-3") == {"method": "frozen", "n_layers": 3}
    for wrong in ("frozen-4", "lora-0", "lora-x", "LoRA", ""):
        with pytest.raises(InputError, match="available: 'knn', 'frozen'"):
            require_methods([wrong])


@pytest.mark.parametrize("name", ["knn", "knn-pca", "knn-hvg", LOGISTIC_REGRESSION])
def test_methods_learn_from_training_cells(subjects, name):
    verdict = evaluate(name, subjects, FOLD)
    assert (verdict.labels == subjects.labels[FOLD.test]).mean() > 0.9
    subjects.labels[FOLD.test] = "D"  # nobody looks
    again = evaluate(name, subjects, FOLD)
    np.testing.assert_array_equal(again.labels, verdict.labels)
    np.testing.assert_array_equal(again.confidence, verdict.confidence)


def test_neighbors_reject_a_kind_that_they_have_not_seen(subjects):
    fold = Fold("C", FOLD.train[subjects.labels[FOLD.train] != "C"], FOLD.test)
    verdict = evaluate("knn", subjects, fold)
    scores = rejection_scores(
        subjects.labels[fold.test] == "C",
        verdict.confidence,
        verdict.distance,
        confidence_threshold=verdict.confidence_threshold,
        distance_threshold=verdict.distance_threshold,
    )
    assert scores["auroc_both"] > 0.95
    assert scores["unknown_rejected"] > 0.8
    assert scores["known_rejected"] < 0.3


def test_celltypist_is_beside_where_it_is_installed_and_counts_are_there(tiny_adata, tiny_model, monkeypatch):
    monkeypatch.setattr(_methods, "celltypist_name", lambda: "celltypist")
    labels = tiny_adata.obs["label"].to_numpy().astype(str)
    same = ["knn", "knn-pca", "knn-hvg"]
    on = read_subjects(tiny_adata, tiny_model, labels)
    assert with_baselines(["knn"], on) == [*same, LOGISTIC_REGRESSION, "celltypist"]
    tiny_adata.X = tiny_adata.X.log1p()
    own = read_subjects(tiny_adata, tiny_model, labels, values_layer="X")
    assert with_baselines(["knn"], own) == [*same, LOGISTIC_REGRESSION]


def test_every_head_is_compared_with_itself_on_other_features(subjects, monkeypatch):
    monkeypatch.setattr(_methods, "celltypist_name", lambda: None)
    monkeypatch.setattr(EvaluationSet, "has_counts", True)
    methods = ["frozen-2", "knn", "lora-8", "full", "query"]
    names = with_baselines(methods, subjects)
    beside = ["frozen-2-pca", "frozen-2-hvg", "knn-pca", "knn-hvg", "frozen-pca", "frozen-hvg", LOGISTIC_REGRESSION]
    assert names == [*methods, *beside]
    assert [features_of(name) for name in names] == ["model"] * 5 + ["pca", "hvg"] * 3 + ["pca"]
    assert features_of("celltypist (SGD)") == "genes"


@pytest.mark.parametrize("head", ["frozen", "frozen-2", "knn"])
def test_a_head_gives_the_same_on_the_same_features(tiny_adata, tiny_model, head):
    """Whatever a baseline reads, it is the very head: on the model's embedding it would say the same."""
    labels = tiny_adata.obs["label"].to_numpy().astype(str)
    on = read_subjects(tiny_adata, tiny_model, labels)
    fold = Fold("1", np.arange(30), np.arange(30, 40))
    expected = evaluate(head, on, fold)
    on._last["pca"] = fold, 0, on.features("model", fold)
    found = evaluate(f"{head}-pca", on, fold)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.confidence, expected.confidence)
    np.testing.assert_array_equal(found.distance, expected.distance)
    np.testing.assert_array_equal(found.distance_threshold, expected.distance_threshold)


def test_a_gene_that_no_training_cell_expresses_does_not_outweigh_the_others(tiny_adata, tiny_model):
    labels = tiny_adata.obs["label"].to_numpy().astype(str)
    on = read_subjects(tiny_adata, tiny_model, labels)
    fold = Fold("1", np.arange(30), np.arange(30, 40))
    genes = on.features("hvg", fold)
    train, test = (np.pad(x, ((0, 0), (0, 1))) for x in (genes.train, genes.test))
    test[:, -1] = 1
    expected = evaluate("frozen-2-hvg", on, fold)
    on._last["hvg"] = fold, 0, Features(train, test)
    found = evaluate("frozen-2-hvg", on, fold)
    assert (found.distance < 3 * expected.distance).all()
    assert (found.labels == expected.labels).mean() >= 0.9
