"""What the names of methods stand for, and that test labels are out of reach of all of them."""

import numpy as np
import pytest
import scipy.sparse as sp

from cellfm.errors import InputError
from cellfm.tasks.annotation import _methods
from cellfm.tasks.annotation._methods import LOGISTIC_REGRESSION, fit_options, judge, require_methods, with_baselines
from cellfm.tasks.annotation._metrics import rejection_scores
from cellfm.tasks.annotation._split import Fold
from cellfm.tasks.annotation._subjects import Subjects, read_subjects


@pytest.fixture
def subjects(tiny_model) -> Subjects:
    """Three kinds of cells, each in a direction of its own; what the model is asked is its embedding alone."""
    labels = np.repeat(["A", "B", "C"], 30)
    embedding = np.random.default_rng(0).normal(size=(90, 16)) + 4 * np.eye(16)[np.repeat([0, 1, 2], 30)]
    return Subjects(tiny_model, None, labels, embedding.astype(np.float32), sp.csr_matrix(np.abs(embedding)))


EVERY_THIRD = np.arange(90) % 3 == 0
FOLD = Fold("1", np.flatnonzero(~EVERY_THIRD), np.flatnonzero(EVERY_THIRD))


def test_names_of_methods():
    require_methods(["frozen", "frozen-2", "frozen-3", "query", "lora", "lora-8", "lora-64", "full", "knn"])
    assert fit_options("lora-8") == {"method": "lora", "lora_rank": 8}
    assert fit_options("frozen-3") == {"method": "frozen", "n_layers": 3}
    for wrong in ("frozen-4", "lora-0", "lora-x", "LoRA", ""):
        with pytest.raises(InputError, match="there are: 'knn', 'frozen'"):
            require_methods([wrong])


@pytest.mark.parametrize("name", ["knn", LOGISTIC_REGRESSION])
def test_methods_learn_from_training_cells(subjects, name):
    verdict = judge(name, subjects, FOLD)
    assert (verdict.labels == subjects.labels[FOLD.test]).mean() > 0.9
    subjects.labels[FOLD.test] = "D"  # nobody looks
    again = judge(name, subjects, FOLD)
    np.testing.assert_array_equal(again.labels, verdict.labels)
    np.testing.assert_array_equal(again.confidence, verdict.confidence)


def test_neighbors_reject_a_kind_that_they_have_not_seen(subjects):
    fold = Fold("C", FOLD.train[subjects.labels[FOLD.train] != "C"], FOLD.test)
    verdict = judge("knn", subjects, fold)
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
    assert with_baselines(["knn"], read_subjects(tiny_adata, tiny_model, labels))[1:] == [
        LOGISTIC_REGRESSION,
        "celltypist",
    ]
    tiny_adata.X = tiny_adata.X.log1p()
    own = read_subjects(tiny_adata, tiny_model, labels, values_layer="X")
    assert with_baselines(["knn"], own) == ["knn", LOGISTIC_REGRESSION]
