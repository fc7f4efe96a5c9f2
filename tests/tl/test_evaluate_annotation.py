"""`cf.tl.evaluate_annotation` and `evaluate_unknowns`: all methods on the same cells, and bad input refused at once."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import cellfm as cf
from cellfm.errors import InputError, MissingKeyError
from cellfm.tasks.annotation import _methods
from cellfm.tasks.annotation._choose import choose
from cellfm.tasks.annotation._methods import LOGISTIC_REGRESSION
from cellfm.tasks.annotation._split import leave_one_out_folds
from cellfm.tl import _evaluate_unknowns


@pytest.fixture(autouse=True)
def _without_celltypist(monkeypatch):
    """The same rows whatever is installed."""
    monkeypatch.setattr(_methods, "celltypist_name", lambda: None)


@pytest.fixture
def labelled(tiny_adata):
    """Three kinds of cells."""
    dense = tiny_adata.X.toarray()
    dense[::4, 200:] *= 3
    tiny_adata.X = sp.csr_matrix(dense)
    tiny_adata.obs["label"] = np.where(np.arange(tiny_adata.n_obs) % 4 == 0, "C", tiny_adata.obs["label"].astype(str))
    return tiny_adata


def evaluate(adata, model, **kwargs) -> pd.DataFrame:
    return cf.tl.evaluate_annotation(adata, model, **{"labels_key": "label", "methods": "knn", "n_folds": 2} | kwargs)


def test_a_row_for_each_fold_and_method(labelled, tiny_model):
    table = evaluate(labelled, tiny_model)
    assert table[["fold", "method"]].to_records(index=False).tolist() == [
        (fold, method) for fold in ("1", "2") for method in ("knn", "knn-pca", "knn-hvg", LOGISTIC_REGRESSION)
    ]
    assert table["features"].tolist() == ["model", "pca", "hvg", "pca"] * 2
    assert (table["n_train"] + table["n_test"] == labelled.n_obs).all()
    scores = table[["accuracy", "macro_f1", "weighted_f1"]]
    assert ((scores >= 0) & (scores <= 1)).all(axis=None)


def test_tables_by_class_and_confusion_agree_with_the_scores(labelled, tiny_model):
    table = evaluate(labelled, tiny_model)
    by_class = pd.DataFrame(table.attrs["by_class"])
    mean = by_class.groupby(["fold", "method"])["f1"].mean()
    np.testing.assert_allclose(table.set_index(["fold", "method"])["macro_f1"].sort_index(), mean.sort_index())
    right = (table["accuracy"] * table["n_test"]).groupby(table["method"]).sum()
    for method, counts in table.attrs["confusion"].items():
        confusion = pd.DataFrame(counts)
        assert confusion.to_numpy().sum() == labelled.n_obs
        assert np.trace(confusion) == pytest.approx(right[method])
        np.testing.assert_array_equal(confusion.sum(axis=1), labelled.obs["label"].value_counts()[confusion.index])


def test_same_seed_same_scores(labelled, tiny_model):
    tables = [evaluate(labelled, tiny_model).drop(columns="seconds") for _ in range(2)]
    pd.testing.assert_frame_equal(*tables)


def test_test_labels_are_not_looked_at(labelled, tiny_model):
    labelled.obs["part"] = np.where(np.arange(40) < 28, "train", "test")
    before = evaluate(labelled, tiny_model, split="part")
    labelled.obs.iloc[28:, labelled.obs.columns.get_loc("label")] = list("ABC") * 4
    after = evaluate(labelled, tiny_model, split="part")
    for method, counts in before.attrs["confusion"].items():  # what was said of each cell is the same
        said = [pd.DataFrame(c).sum(axis=0) for c in (counts, after.attrs["confusion"][method])]
        pd.testing.assert_series_equal(*said)


def test_a_head_on_the_frozen_model_learns(labelled, tiny_model):
    table = evaluate(labelled, tiny_model, methods=["frozen"])
    assert table.loc[table["method"] == "frozen", "accuracy"].mean() > 0.6


@pytest.mark.slow
def test_all_other_methods_run(labelled, tiny_model):
    methods = ["frozen-2", "frozen-3", "query", "lora-2", "full"]
    labelled.obs["part"] = np.where(np.arange(40) < 28, "train", "test")
    before = tiny_model.weights_hash
    table = evaluate(labelled, tiny_model, methods=methods, split="part")
    heads = [f"{head}-{features}" for head in ("frozen-2", "frozen-3", "frozen") for features in ("pca", "hvg")]
    assert table["method"].tolist() == [*methods, *heads, LOGISTIC_REGRESSION]
    assert table["n_test"].eq(12).all()
    assert table["macro_f1"].between(0, 1).all()
    assert tiny_model.weights_hash == before


def test_auto_chooses_by_the_batches_that_are_left(labelled, tiny_model, monkeypatch):
    seen = []

    def choosing(of, groups):
        seen.append(None if groups is None else sorted(set(groups)))
        return choose(of, groups)

    monkeypatch.setattr("cellfm.tasks.annotation._train.choose", choosing)
    labelled.obs["label"] = np.where(np.arange(40) % 2, "A", "B")
    labelled.obs["batch"] = np.arange(40) // 14
    options = {"split": "leave-one-batch-out", "batch_key": "batch", "methods": ["auto"]}
    table = evaluate(labelled, tiny_model, **options)
    assert seen == [["1", "2"], ["0", "2"], ["0", "1"]]
    assert table["method"].unique().tolist()[:3] == ["auto", "frozen-pca", "frozen-hvg"]
    labelled.obs["batch"] = np.arange(40) // 20
    evaluate(labelled, tiny_model, **options | {"split": "batch"})
    assert seen[3:] == [None, None]  # one batch is left


def test_batches_are_read_before_the_model_and_only_where_a_method_or_the_split_needs_them(
    labelled, tiny_model, monkeypatch
):
    table = evaluate(labelled, tiny_model, batch_key="donor")
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), evaluate(labelled, tiny_model).drop(columns="seconds"))
    monkeypatch.setattr(cf.tl._evaluate_annotation, "resolve_model", None)
    for options in ({"methods": ["knn", "auto"]}, {"split": "leave-one-batch-out"}):
        with pytest.raises(MissingKeyError, match="batch_key='donor' is not a column of obs"):
            evaluate(labelled, tiny_model, batch_key="donor", **options)


def test_batches_in_turn(labelled, tiny_model):
    labelled.obs["label"] = np.where(np.arange(40) % 2, "A", "B")
    labelled.obs["batch"] = np.arange(40) // 14  # numbers are batches too
    table = evaluate(labelled, tiny_model, split="leave-one-batch-out", batch_key="batch", n_folds=7)
    assert table["fold"].unique().tolist() == ["0", "1", "2"]
    assert table.loc[table["method"] == "knn", "n_test"].tolist() == [14, 14, 12]


def test_a_stored_embedding_is_used(labelled, tiny_model, monkeypatch):
    cf.tl.embed(labelled, tiny_model)
    expected = evaluate(labelled, tiny_model)
    calls = []
    encode = type(tiny_model).encode
    monkeypatch.setattr(
        type(tiny_model), "encode", lambda self, batch, **k: calls.append(batch) or encode(self, batch, **k)
    )
    found = evaluate(labelled, tiny_model)
    assert sum(batch.n_cells for batch in calls) < labelled.n_obs  # a few, to see that it is of this model
    np.testing.assert_array_equal(found["accuracy"], expected["accuracy"])


def test_own_values_change_the_model_and_not_the_baseline(labelled, tiny_model):
    labelled.layers["roots"] = labelled.X.sqrt()
    plain, own = (evaluate(labelled, tiny_model, values_layer=layer) for layer in (None, "roots"))
    baseline = plain["method"] == LOGISTIC_REGRESSION
    np.testing.assert_array_equal(plain.loc[baseline, "macro_f1"], own.loc[baseline, "macro_f1"])


def test_every_head_has_a_row_on_principal_components(labelled, tiny_model):
    table = evaluate(labelled, tiny_model, methods=["frozen", "knn"])
    methods = set(table["method"])
    assert {"frozen", "frozen-pca", "frozen-hvg", "knn", "knn-pca", "knn-hvg"} < methods
    unknowns = cf.tl.evaluate_unknowns(labelled, tiny_model, labels_key="label", methods=["frozen", "knn"])
    assert set(unknowns["method"]) == methods
    with_distance = unknowns["method"] != LOGISTIC_REGRESSION
    assert unknowns.loc[with_distance, ["auroc_distance", "known_rejected"]].notna().all(axis=None)


def test_unknowns_are_told_by_every_method(labelled, tiny_model):
    table = cf.tl.evaluate_unknowns(labelled, tiny_model, labels_key="label", methods=["knn"])
    assert table["left_out"].tolist() == [label for label in "ABC" for _ in range(4)]
    assert table["method"].tolist() == ["knn", "knn-pca", "knn-hvg", LOGISTIC_REGRESSION] * 3
    assert table["n_unknown"].tolist() == np.repeat(labelled.obs["label"].value_counts().sort_index(), 4).tolist()
    assert table["auroc_confidence"].between(0, 1).all()
    baseline = table["method"] == LOGISTIC_REGRESSION
    assert table.loc[baseline, "auroc_both"].isna().all()
    assert table.loc[~baseline, ["auroc_distance", "auroc_both", "unknown_rejected"]].notna().all(axis=None)


def test_unknowns_of_a_batch_are_judged_by_the_other_batches(labelled, tiny_model, monkeypatch):
    """Nothing of a tested batch is learnt, and nothing else is tested."""
    labelled.obs["label"] = np.resize(list("ABC"), 40)
    labelled.obs["study"] = np.where(np.arange(40) < 20, "one", "two")
    seen = []
    evaluate = _evaluate_unknowns.evaluate
    monkeypatch.setattr(
        _evaluate_unknowns, "evaluate", lambda name, on, fold, **k: seen.append(fold) or evaluate(name, on, fold, **k)
    )
    monkeypatch.setattr(_evaluate_unknowns, "leave_one_out_folds", partial(leave_one_out_folds, min_train=5))
    table = cf.tl.evaluate_unknowns(
        labelled, tiny_model, labels_key="label", batch_key="study", left_out=["A", "B"], methods=["knn"]
    )
    assert table["fold"].tolist() == ["one"] * 8 + ["two"] * 8
    assert table["left_out"].tolist() == (["A"] * 4 + ["B"] * 4) * 2
    assert ((table["n_unknown"] + table["n_known"]) == 20).all()
    study, label = labelled.obs["study"].to_numpy(), labelled.obs["label"].to_numpy()
    for fold, left_out in zip(seen, table["left_out"], strict=True):
        assert set(study[fold.test]) == {fold.name}
        assert set(study[fold.train]) == {"one", "two"} - {fold.name}
        assert left_out not in label[fold.train]


def test_bad_input_is_refused_before_any_work(labelled, tiny_model, monkeypatch, tmp_path):
    def never(*args, **kwargs):
        raise AssertionError("the model ran")

    monkeypatch.setattr(type(tiny_model), "encode", never)

    def refused(error, match, labels=None, **kwargs):
        adata = labelled.copy()
        if labels is not None:
            adata.obs["label"] = labels
        with pytest.raises(error, match=match):
            evaluate(adata, tiny_model, **kwargs)

    labelled.obs["lone"] = "one"
    some_missing = labelled.obs["label"].where(np.arange(40) > 2)
    refused(MissingKeyError, "labels_key='cell_type' is not.* Columns: label, batch", labels_key="cell_type")
    refused(InputError, "missing for 3 of 40 cells", labels=some_missing)
    refused(InputError, "only one class", labels="A")
    refused(InputError, "single cell: 'rare'", labels=["rare"] + ["A", "B", "B"] * 13)
    refused(InputError, "No method 'forest'; available: 'knn', 'frozen'", methods=["forest"])
    refused(InputError, "duplicates", methods=["knn", "knn"])
    refused(InputError, "split must be 'random', 'leave-one-batch-out' or a column", split="by hand")
    refused(InputError, "needs batch_key=", split="leave-one-batch-out")
    refused(InputError, "at least two batches, found only 'one'", split="leave-one-batch-out", batch_key="lone")
    labelled.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(InputError, match="to_memory"):
        evaluate(cf.cells.read_cells(tmp_path / "cells.h5ad", backed=True), tiny_model)
    with pytest.raises(InputError, match="No label 'D'.*A, B, C"):
        cf.tl.evaluate_unknowns(labelled, tiny_model, labels_key="label", left_out="D")
    with pytest.raises(InputError, match="at least two batches, found only 'one'"):
        cf.tl.evaluate_unknowns(labelled, tiny_model, labels_key="label", batch_key="lone")
    with pytest.raises(MissingKeyError, match="batch_key='donor' is not a column of obs"):
        cf.tl.evaluate_unknowns(labelled, tiny_model, labels_key="label", batch_key="donor")
    labelled.obs["label"] = labelled.obs["batch"]
    with pytest.raises(InputError, match="two classes"):
        cf.tl.evaluate_unknowns(labelled, tiny_model, labels_key="label")
