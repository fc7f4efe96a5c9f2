"""`cf.tl.transfer_labels`: neighbours give their labels, strangers become Unknown, and bad input is refused at once."""

import mudata as md
import numpy as np
import pytest
import scipy.sparse as sp

import cellfm as cf
from cellfm.cells.mudata import without_pulling
from cellfm.errors import DataWarning, InputError, MissingKeyError
from cellfm.tasks.annotation._reject import BatchShift

# Ten cells by a random network: all of a class may be rejected.
pytestmark = pytest.mark.filterwarnings("ignore:More than half of the cells:cellfm.errors.DataWarning")


@pytest.fixture
def parts(tiny_adata):
    return tiny_adata[30:].copy(), tiny_adata[:30].copy()


def transfer(query, reference, model, **kwargs):
    cf.tl.transfer_labels(query, reference, labels_key="label", model=model, n_neighbors=5, **kwargs)
    return query


def test_writes_what_it_says(parts, tiny_model):
    query, reference = parts
    assert cf.tl.transfer_labels(query, reference, labels_key="label", model=tiny_model) is None
    obs, proba = query.obs, query.obsm["cellfm_proba"]
    assert list(obs["cellfm_label"].cat.categories) == ["A", "B", "Unknown"]
    assert list(obs["cellfm_label_raw"].cat.categories) == ["A", "B"]
    assert (obs["cellfm_confidence"].dtype, obs["cellfm_distance"].dtype, proba.dtype) == (np.float32,) * 3
    record = query.uns["cellfm"]["cellfm_proba"]
    assert list(record["classes"]) == ["A", "B"]
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(proba.max(1), obs["cellfm_confidence"])
    np.testing.assert_array_equal(record["classes"][proba.argmax(1)], obs["cellfm_label_raw"])
    most = record["distance_thresholds"][obs["cellfm_label_raw"].cat.codes]
    rejected = (obs["cellfm_confidence"] < record["confidence_threshold"]) | (obs["cellfm_distance"] > most)
    np.testing.assert_array_equal(obs["cellfm_label"] == "Unknown", rejected)
    kept = obs.loc[~rejected]
    assert (kept["cellfm_label"].astype(str) == kept["cellfm_label_raw"].astype(str)).all()
    assert len(query.uns["cellfm_label_colors"]) == 3


def test_the_result_can_be_stored(parts, tiny_model, tmp_path):
    query = transfer(*parts, tiny_model)
    query.write_h5ad(tmp_path / "query.h5ad")


def test_cells_of_a_kind_find_each_other(parts, tiny_model):
    query = transfer(*parts, tiny_model)
    assert (query.obs["cellfm_label_raw"].astype(str) == query.obs["label"].astype(str)).mean() > 0.8


def test_colours_are_those_of_the_reference(parts, tiny_model):
    query, reference = parts
    reference.uns["label_colors"] = ["#111111", "#222222"]
    transfer(query, reference, tiny_model)
    assert list(query.uns["cellfm_label_colors"]) == ["#111111", "#222222", "#bdbdbd"]


def test_thresholds_reject_all_or_nothing(parts, tiny_model):
    query = transfer(*parts, tiny_model, confidence_threshold=0, distance_threshold=np.inf)
    assert "Unknown" not in set(query.obs["cellfm_label"])
    with pytest.warns(DataWarning, match="More than half of the cells"):
        query = transfer(*parts, tiny_model, distance_threshold=0)
    assert set(query.obs["cellfm_label"]) == {"Unknown"}
    assert set(query.obs["cellfm_label_raw"]) == {"A", "B"}


@pytest.mark.parametrize("given", [None, 1.1])
def test_the_distance_allows_for_another_study_unless_it_is_given(parts, tiny_model, monkeypatch, given):
    monkeypatch.setattr(BatchShift, "thresholds", lambda self, most: most * np.array([1.25, 1.5]))
    record = transfer(*parts, tiny_model, distance_threshold=given).uns["cellfm"]["cellfm_proba"]
    widened = record["distance_thresholds"] / record["distance_threshold"]
    np.testing.assert_allclose(widened, [1.25, 1.5] if given is None else [1, 1])


def test_genes_of_one_table_alone_change_nothing(parts, tiny_model):
    query, reference = parts
    smaller = reference[:, :260].copy()
    expected = transfer(query[:, :260].copy(), smaller.copy(), tiny_model)
    found = transfer(query.copy(), smaller, tiny_model)
    np.testing.assert_allclose(found.obsm["cellfm_proba"], expected.obsm["cellfm_proba"], atol=1e-5)
    np.testing.assert_allclose(found.obs["cellfm_distance"], expected.obs["cellfm_distance"], rtol=1e-2)
    unlike = transfer(query.copy(), smaller, tiny_model, shared_genes=False)
    assert unlike.obs["cellfm_distance"].median() > 2 * expected.obs["cellfm_distance"].median()


def test_reference_cells_without_label_have_no_vote(parts, tiny_model):
    query, reference = parts
    expected = transfer(query.copy(), reference[5:].copy(), tiny_model)
    reference.obs.loc[reference.obs_names[:5], "label"] = np.nan
    with pytest.warns(DataWarning, match="5 of 30 cells have no label"):
        found = transfer(query, reference, tiny_model)
    np.testing.assert_allclose(found.obsm["cellfm_proba"], expected.obsm["cellfm_proba"], atol=1e-5)


def test_cells_without_known_gene_are_unknown(parts, tiny_model):
    query, reference = parts
    dense = query.X.toarray()
    dense[2, :300] = 0
    query.X = sp.csr_matrix(dense)
    with pytest.warns(DataWarning, match="1 of 10 cells expresses no gene"):
        transfer(query, reference, tiny_model)
    assert query.obs["cellfm_label"].iloc[2] == "Unknown"
    assert query.obs["cellfm_label_raw"].isna().tolist() == [i == 2 for i in range(10)]
    assert query.obs[["cellfm_confidence", "cellfm_distance"]].iloc[2].isna().all()


def test_copy_and_mudata(parts, tiny_model):
    query, reference = parts
    result = cf.tl.transfer_labels(query, reference, labels_key="label", model=tiny_model, copy=True)
    assert "cellfm_label" not in query.obs
    assert "cellfm_label" in result.obs
    with without_pulling():
        tables = md.MuData({"rna": query})
        cf.tl.transfer_labels(tables, reference, labels_key="label", model=tiny_model)
    np.testing.assert_array_equal(tables.mod["rna"].obs["cellfm_confidence"], result.obs["cellfm_confidence"])


def test_a_reference_that_is_the_query_warns(parts, tiny_model):
    with pytest.warns(DataWarning, match="query itself"):
        transfer(parts[0], parts[0].copy(), tiny_model)


def test_bad_input_is_refused_before_any_work(parts, tiny_model, monkeypatch):
    query, reference = parts

    def never(*args, **kwargs):
        raise AssertionError("the model ran")

    monkeypatch.setattr(type(tiny_model), "encode", never)

    def refused(error, match, labels=None, reference=reference, **kwargs):
        reference = reference.copy()
        if labels is not None:
            reference.obs["label"] = labels
        with pytest.raises(error, match=match):
            transfer(query, reference, tiny_model, **kwargs)

    with pytest.raises(MissingKeyError, match="'cell_type' is not a column.*label, batch"):
        cf.tl.transfer_labels(query, reference, labels_key="cell_type", model=tiny_model)
    refused(InputError, "only one class", labels="A")
    refused(InputError, "single cell: 'rare'", labels=["rare"] + ["A", "B"] * 14 + ["A"])
    refused(InputError, "which cellfm gives to rejected cells", labels=["Unknown", "A"] * 15)
    refused(InputError, "confidence_threshold must be a number from 0 to 1, or None, not 1.5", confidence_threshold=1.5)
    refused(InputError, "distance_threshold must be a number of 0 or more", distance_threshold=-1)
    with pytest.raises(InputError, match="n_neighbors must be a whole number of 1 or more, not 0"):
        cf.tl.transfer_labels(query, reference, labels_key="label", model=tiny_model, n_neighbors=0)
    halves = query[:, :150].copy(), reference[:, 150:300].copy()
    with pytest.raises(InputError, match="share only 0 genes"):
        transfer(*halves, tiny_model, min_known_genes=1)
