"""`cf.tl.fit_annotator` and `cf.tl.annotate`: what may not change a label, what is kept, and what is refused."""

import copy
import json
import pickle
from inspect import signature

import mudata as md
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import cellfm as cf
from cellfm.cells.mudata import without_pulling
from cellfm.config import ModelConfig
from cellfm.errors import CheckpointError, DataWarning, InputError, InputTypeError, MissingKeyError
from cellfm.model import CellFM
from cellfm.tasks.annotation._annotator import Annotator
from cellfm.tasks.annotation._choose import CANDIDATES
from cellfm.tasks.annotation._reject import BatchShift
from cellfm.tasks.annotation._vote import find_clusters

SAME = {"atol": 1e-4, "rtol": 1e-3}
# Sixteen cells by a random network: it is unsure of most.
pytestmark = pytest.mark.filterwarnings("ignore:More than half of the cells:cellfm.errors.DataWarning")
LABEL, RAW, CONFIDENCE, DISTANCE = "cellfm_label", "cellfm_label_raw", "cellfm_confidence", "cellfm_distance"


@pytest.fixture
def reference(tiny_adata):
    return tiny_adata[:24].copy()


@pytest.fixture
def query(tiny_adata):
    return tiny_adata[24:].copy()


@pytest.fixture
def annotator(reference, tiny_model):
    return cf.tl.fit_annotator(reference, tiny_model, labels_key="label")


def annotated(adata, annotator, **options):
    return cf.tl.annotate(adata, annotator, copy=True, **options)


def test_writes_what_it_says(query, annotator):
    assert cf.tl.annotate(query, annotator) is None
    obs = query.obs
    assert obs[LABEL].cat.categories.tolist() == ["A", "B", "Unknown"]
    assert obs[RAW].cat.categories.tolist() == ["A", "B"]
    assert len(query.uns["cellfm_label_colors"]) == 3
    assert query.uns["cellfm_label_raw_colors"] == query.uns["cellfm_label_colors"][:2]
    proba = query.obsm["cellfm_proba"]
    assert proba.dtype == obs[CONFIDENCE].dtype == obs[DISTANCE].dtype == np.float32
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(obs[CONFIDENCE], proba.max(1))
    np.testing.assert_array_equal(obs[RAW].cat.codes, proba.argmax(1))
    record = query.uns["cellfm"]["cellfm_proba"]
    assert record["classes"].tolist() == ["A", "B"]
    assert record["model"] == "tiny"
    assert (obs[RAW].astype(str) == obs["label"].astype(str)).mean() > 0.9


def test_results_are_written_and_read(query, annotator, tmp_path):
    import anndata as ad

    cf.tl.annotate(query, annotator)
    query.write_h5ad(tmp_path / "query.h5ad")
    again = ad.read_h5ad(tmp_path / "query.h5ad")
    assert again.uns["cellfm"]["cellfm_proba"]["classes"].tolist() == ["A", "B"]
    assert again.obs[LABEL].equals(query.obs[LABEL])


def test_copy_leaves_the_original_alone(query, annotator):
    result = annotated(query, annotator)
    assert LABEL not in query.obs
    assert LABEL in result.obs


def test_reference_on_the_way_is_the_same_as_before(query, reference, tiny_model, annotator):
    on_the_way = cf.tl.annotate(query, reference=reference, labels_key="label", model=tiny_model, copy=True)
    np.testing.assert_array_equal(on_the_way.obsm["cellfm_proba"], annotated(query, annotator).obsm["cellfm_proba"])


def test_same_seed_same_annotator(reference, query, tiny_model):
    some, others, third = (
        cf.tl.fit_annotator(reference, tiny_model, labels_key="label", n_layers=2, random_state=seed).predict(query)
        for seed in (3, 3, 4)
    )
    pd.testing.assert_frame_equal(some, others)
    assert (some["confidence"] != third["confidence"]).any()


def test_order_of_cells_and_batches_do_not_matter(query, annotator):
    expected = annotator.predict(query)
    order = np.random.default_rng(0).permutation(query.n_obs)
    found = annotator.predict(query[order].copy(), batch_size=3)
    pd.testing.assert_frame_equal(found.loc[expected.index], expected, check_exact=False, **SAME)
    few = annotator.predict(query[3:6].copy())
    pd.testing.assert_frame_equal(few, expected.iloc[3:6], check_exact=False, **SAME)


def test_a_stored_embedding_is_taken_and_changes_nothing(reference, query, tiny_model, annotator, monkeypatch):
    expected = annotated(query, annotator).obsm["cellfm_proba"]
    for adata in (reference, query):
        cf.tl.embed(adata, tiny_model)
    monkeypatch.setattr("cellfm.model._embed.embed_cells", None)
    again = cf.tl.fit_annotator(reference, tiny_model, labels_key="label")
    np.testing.assert_allclose(annotated(query, again).obsm["cellfm_proba"], expected, **SAME)


def test_unlabelled_cells_are_left_out(reference, query, tiny_model):
    expected = cf.tl.fit_annotator(reference[:20].copy(), tiny_model, labels_key="label").predict(query)
    reference.obs.loc[reference.obs_names[20:], "label"] = np.nan
    with pytest.warns(DataWarning, match="4 of 24 cells have no label"):
        annotator = cf.tl.fit_annotator(reference, tiny_model, labels_key="label")
    assert annotator.n_cells == 20
    pd.testing.assert_frame_equal(annotator.predict(query), expected, check_exact=False, **SAME)


@pytest.mark.parametrize("head", ["mlp", "query"])
def test_saved_is_loaded(reference, query, tiny_model, tmp_path, head):
    options = {} if head == "mlp" else {"n_epochs": 1, "batch_size": 32}
    annotator = cf.tl.fit_annotator(reference, tiny_model, labels_key="label", head=head, **options)
    annotator.save(tmp_path / "annotator")
    loaded = Annotator.load(tmp_path / "annotator")
    expected = annotator.predict(query)
    for other in (loaded, pickle.loads(pickle.dumps(annotator))):
        pd.testing.assert_frame_equal(other.predict(query), expected)
    pd.testing.assert_frame_equal(loaded.history, annotator.history, check_dtype=False)
    for name in ("classes", "method", "temperature", "confidence_threshold", "distance_threshold", "colors", "n_cells"):
        assert getattr(loaded, name) == getattr(annotator, name)
    with_path = cf.tl.annotate(query, tmp_path / "annotator", copy=True)
    np.testing.assert_array_equal(with_path.obsm["cellfm_proba"], annotated(query, loaded).obsm["cellfm_proba"])
    with pytest.raises(InputError, match="exists already"):
        annotator.save(tmp_path / "annotator")
    annotator.save(tmp_path / "annotator", overwrite=True)


@pytest.fixture
def auto(reference, tiny_model, monkeypatch):
    monkeypatch.setattr("cellfm.tasks.annotation._choose.MIN_CELLS", 1)
    return cf.tl.fit_annotator(reference, tiny_model, labels_key="label", method="auto", groups_key="batch")


def choosing(candidate, monkeypatch, reference, tiny_model):
    """An annotator of one candidate, whatever the scores are."""
    monkeypatch.setattr("cellfm.tasks.annotation._choose.PREFERRED", candidate)
    monkeypatch.setattr("cellfm.tasks.annotation._choose.TOLERANCE", 1.0)
    return cf.tl.fit_annotator(reference, tiny_model, labels_key="label", method="auto")


def test_auto_says_what_it_chose(query, auto, caplog, reference, tiny_model):
    selection = auto.selection
    assert selection.columns.tolist() == ["candidate", "mean_score", "sd_score", "chosen"]
    assert selection["chosen"].sum() == 1
    name = selection["candidate"][selection["chosen"]].item()
    assert f"chosen: {name!r}, accuracy" in repr(auto)
    with caplog.at_level("INFO", "cellfm"):
        cf.tl.annotate(query, reference=reference, model=tiny_model, labels_key="label", method="auto")
    assert f"chosen: {name!r}" in caplog.text
    record = query.uns["cellfm"]["cellfm_proba"]
    assert record["choice"].startswith(f"chosen: {name!r}")
    assert record["candidates"].tolist() == selection["candidate"].tolist()
    assert (query.obs[RAW].astype(str) == query.obs["label"].astype(str)).mean() > 0.9


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_each_candidate_is_saved_copied_and_reads_any_genes(
    reference, query, tiny_model, tmp_path, monkeypatch, candidate
):
    annotator = choosing(candidate, monkeypatch, reference, tiny_model)
    assert annotator.choice.startswith(f"chosen: {candidate!r}")
    annotator.save(tmp_path / "annotator")
    loaded = Annotator.load(tmp_path / "annotator")
    expected = annotator.predict(query)
    for other in (loaded, pickle.loads(pickle.dumps(annotator)), copy.deepcopy(annotator)):
        pd.testing.assert_frame_equal(other.predict(query), expected)
        pd.testing.assert_frame_equal(other.selection, annotator.selection)
    shuffled = query[:, np.random.default_rng(0).permutation(query.n_vars)].copy()
    pd.testing.assert_frame_equal(annotator.predict(shuffled), expected, check_exact=False, **SAME)
    ensembl = query.copy()
    known = tiny_model.vocab.genes.set_index("symbol")["ensembl_id"].reindex(ensembl.var_names)
    ensembl.var_names = [i if isinstance(i, str) and i else name for name, i in known.items()]
    pd.testing.assert_frame_equal(annotator.predict(ensembl), expected, check_exact=False, **SAME)
    cf.tl.embed(query, tiny_model)
    stored = annotated(query, loaded)
    np.testing.assert_allclose(stored.obs[CONFIDENCE], expected["confidence"], **SAME)


def test_auto_warns_of_missing_genes_and_takes_their_mean(query, reference, tiny_model, monkeypatch):
    annotator = choosing("pca", monkeypatch, reference, tiny_model)
    expected = annotator.predict(query)
    for n_missing, warned in ((80, True), (70, False)):
        with pytest.warns(DataWarning) as caught:
            found = annotator.predict(query[:, n_missing:].copy())
        messages = [str(one.message) for one in caught if "genes" in str(one.message)]
        assert len(messages) == 1  # of one cause
        assert ("The query lacks 80 of the 300 genes that the head reads" in messages[0]) == warned
        assert messages[0].startswith(f"The query has {300 - n_missing} of the 300 genes of the reference")
        assert (found["raw_label"] == expected["raw_label"]).mean() > 0.6


def test_auto_gives_cells_without_known_genes_no_label(query, reference, tiny_model, monkeypatch):
    annotator = choosing("genes", monkeypatch, reference, tiny_model)
    query.X = query.X.multiply(np.arange(16)[:, None] > 0).tocsr()
    found = annotator.predict(query)
    assert np.isnan(found["confidence"].iloc[0])
    assert found["label"].iloc[0] == "Unknown"


def test_options_of_auto_that_do_not_fit_are_refused_before_any_work(reference, tiny_model, monkeypatch):
    monkeypatch.setattr("cellfm.model._embed.embed_cells", None)
    reference.obs["study"] = "one"
    reference.obs["donor"] = ["a", None] * 12
    for options, message in (
        ({"groups_key": "study"}, "same value in obs\\['study'\\] \\('one'\\)"),
        ({"groups_key": "donor"}, "obs\\['donor'\\] is missing for 12 of 24 cells"),
        (
            {"groups_key": "batch", "method": "frozen"},
            "groups_key='batch' is for the cross-validation of method='auto'",
        ),
        ({"head": "query"}, "head must be 'mlp', not 'query'"),
    ):
        with pytest.raises(InputError, match=message):
            cf.tl.fit_annotator(reference, tiny_model, labels_key="label", **{"method": "auto"} | options)
    with pytest.raises(MissingKeyError, match="groups_key='sample'"):
        cf.tl.fit_annotator(reference, tiny_model, labels_key="label", method="auto", groups_key="sample")
    with pytest.raises(InputTypeError, match="groups_key must be the name of a column of obs, not list"):
        cf.tl.fit_annotator(reference, tiny_model, labels_key="label", method="auto", groups_key=["batch"])


def test_auto_refuses_values_that_are_no_logarithms(reference, tiny_model):
    reference.layers["tpm"] = reference.X * 100
    with pytest.raises(InputError, match="reads log-normalised values, and the values of the reference reach"):
        cf.tl.fit_annotator(reference, tiny_model, labels_key="label", method="auto", values_layer="tpm")


def test_groups_may_be_missing_where_labels_are(reference, tiny_model, monkeypatch):
    monkeypatch.setattr("cellfm.tasks.annotation._choose.MIN_CELLS", 1)
    reference.obs.loc[reference.obs_names[:3], ["label", "batch"]] = None
    with pytest.warns(DataWarning, match="left out"):
        auto = cf.tl.fit_annotator(reference, tiny_model, labels_key="label", method="auto", groups_key="batch")
    assert auto.n_cells == 21


def test_the_record_of_a_fitted_annotator_has_no_options_of_a_fit(query, auto):
    cf.tl.annotate(query, auto)
    options = query.uns["cellfm"]["cellfm_proba"]["options"]
    assert "shared_genes" not in options
    assert "method" not in options
    assert "min_known_genes" in options


@pytest.mark.parametrize(
    "option",
    [
        {"method": "lora"},
        {"method": "frozen"},  # the default, but said
        {"head": "mlp"},
        {"model": "mini"},
        {"labels_key": "label"},
        {"groups_key": "batch"},
        {"shared_genes": True},
        {"reference_layer": "counts"},
        {"reference_gene_key": "symbol"},
    ],
)
def test_options_of_a_fit_are_refused_beside_a_fitted_annotator(query, annotator, option):
    name = next(iter(option))
    with pytest.raises(InputError, match=f"{name}= belongs to fitting an annotator") as error:
        cf.tl.annotate(query, annotator, **option)
    assert ("cf.tl.fit_annotator" in str(error.value)) == (name in signature(cf.tl.fit_annotator).parameters)
    assert LABEL not in query.obs


def test_none_beside_a_fitted_annotator_is_as_if_left_out(query, annotator):
    expected = annotated(query, annotator)
    none = dict.fromkeys(("reference", "labels_key", "groups_key", "reference_layer", "reference_gene_key"))
    assert annotated(query, annotator, **none).obs[LABEL].equals(expected.obs[LABEL])


def test_annotators_from_before_auto_are_still_read(query, annotator, tmp_path):
    annotator.save(tmp_path / "old")
    path = tmp_path / "old" / "annotator.json"
    facts = json.loads(path.read_text())
    del facts["selection"], facts["facts_sha256"]
    path.write_text(json.dumps(facts))
    pd.testing.assert_frame_equal(Annotator.load(tmp_path / "old").predict(query), annotator.predict(query))


def test_fine_tuning_keeps_the_model_it_made(reference, query, tiny_model, tmp_path):
    annotator = cf.tl.fit_annotator(
        reference, tiny_model, labels_key="label", method="lora", n_epochs=1, batch_size=32, learning_rate=1e-3
    )
    assert annotator.method == "lora"
    annotator.save(tmp_path / "annotator")
    loaded = Annotator.load(tmp_path / "annotator")
    assert loaded.model.weights_hash == annotator.model.weights_hash
    pd.testing.assert_frame_equal(loaded.predict(query), annotator.predict(query))


def test_another_model_and_damaged_files_are_refused(annotator, tiny_vocab, tiny_model, tmp_path):
    folder = tmp_path / "annotator"
    annotator.save(folder)
    assert Annotator.load(folder, tiny_model).model is tiny_model
    other = CellFM(tiny_model.config, tiny_vocab, name="other", random_state=8)
    with pytest.raises(CheckpointError, match="fitted with a different model"):
        Annotator.load(folder, other)
    head = folder / "head.safetensors"
    whole = head.read_bytes()
    head.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=r"head.safetensors is damaged"):
        Annotator.load(folder)
    head.unlink()
    with pytest.raises(CheckpointError, match=r"head.safetensors is missing"):
        Annotator.load(folder)
    head.write_bytes(whole)
    facts = json.loads((folder / "annotator.json").read_text())
    (folder / "annotator.json").write_text(json.dumps(facts | {"format": 9}))
    with pytest.raises(CheckpointError, match="format 9"):
        Annotator.load(folder)
    (folder / "annotator.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        Annotator.load(folder)
    with pytest.raises(InputError, match="is not an annotator"):
        Annotator.load(tmp_path)


def test_thresholds_decide_who_is_unknown(query, annotator):
    def unknown(least: float, most: float) -> float:
        options = {"confidence_threshold": least, "distance_threshold": most}
        return (annotated(query, annotator, **options).obs[LABEL] == "Unknown").mean()

    shares = [unknown(least, np.inf) for least in (0.0, 0.5, 0.9, 0.99, 1.0)]
    assert shares == sorted(shares)
    assert shares[0] == 0
    with pytest.warns(DataWarning, match=r"A: (\d+) of \1 \(\1 by distance\); B: (\d+) of \2 \(\2 by distance\)"):
        far = annotated(query, annotator, confidence_threshold=0.0, distance_threshold=0.0)
    assert (far.obs[LABEL] == "Unknown").all()
    assert (far.obs[RAW] != "Unknown").all()


@pytest.mark.parametrize("tool", ["annotate", "predict", "transfer_labels"])
def test_a_class_that_loses_most_of_its_cells_is_named(query, reference, tiny_model, annotator, tool):
    def label(**options):
        if tool == "annotate":
            cf.tl.annotate(query, annotator, **options)
        elif tool == "predict":
            annotator.predict(query, **options)
        else:
            cf.tl.transfer_labels(query, reference, labels_key="label", model=tiny_model, **options)

    label(confidence_threshold=0.0, distance_threshold=np.inf)
    for options, by_distance in (
        ({"confidence_threshold": 0.0, "distance_threshold": 0.0}, r"\1"),
        ({"confidence_threshold": 1.0, "distance_threshold": np.inf}, "0"),
    ):
        names = rf"become 'Unknown': A: (\d+) of \d+ \({by_distance} by distance\); B: "
        if tool == "transfer_labels" and by_distance == "0":
            continue  # the neighbours may agree
        with pytest.warns(DataWarning, match=names):
            label(**options)


@pytest.mark.parametrize("given", [None, 1.1])
def test_the_distance_allows_for_another_study_unless_it_is_given(query, annotator, monkeypatch, given):
    monkeypatch.setattr(BatchShift, "thresholds", lambda self, most: most * np.array([1.25, 1.5]))
    found = annotated(query, annotator, confidence_threshold=0.0, distance_threshold=given)
    record = found.uns["cellfm"]["cellfm_proba"]
    most = annotator.distance_threshold if given is None else given
    assert record["distance_threshold"] == pytest.approx(most)
    np.testing.assert_allclose(record["distance_thresholds"], most * np.array([1.25, 1.5] if given is None else [1, 1]))
    said = annotator.predict(query, confidence_threshold=0.0, distance_threshold=given)
    assert list(said["label"]) == list(found.obs[LABEL])
    own = record["distance_thresholds"][np.searchsorted(["A", "B"], said["raw_label"].astype(str))]
    assert ((said["label"] == "Unknown") == (said["distance"] > own)).all()


def test_a_vote_is_the_same_within_clusters(query, annotator):
    query.obs["cluster"] = pd.Categorical(np.arange(query.n_obs) % 3)
    voted = annotated(query, annotator, majority_voting="cluster")
    assert (voted.obs.groupby("cluster", observed=True)[LABEL].nunique() == 1).all()
    assert voted.obs[RAW].equals(annotated(query, annotator).obs[RAW])
    assert set(annotated(query, annotator, majority_voting=True).obs[LABEL]) <= {"A", "B", "Unknown"}


def test_cells_without_known_genes_are_unknown(query, annotator):
    query.X = query.X.toarray()
    query.X[:2, :300] = 0
    with pytest.warns(DataWarning, match="2 of 16 cells express no gene"):
        cf.tl.annotate(query, annotator, confidence_threshold=0.0, distance_threshold=np.inf)
    assert query.obs[LABEL].tolist()[:2] == ["Unknown"] * 2
    assert query.obs[RAW].isna().tolist()[:3] == [True, True, False]
    assert np.isnan(query.obs[CONFIDENCE]).tolist()[:3] == [True, True, False]
    with pytest.warns(DataWarning, match="2 labelled cells express no gene"):
        cf.tl.fit_annotator(query, annotator.model, labels_key="label")


def test_other_genes_of_the_query_are_shared_or_told(reference, query, tiny_model, annotator):
    some = query[:, 100:].copy()
    fitted_to_it = cf.tl.fit_annotator(reference[:, 100:].copy(), tiny_model, labels_key="label")
    options = {"reference": reference, "labels_key": "label", "model": tiny_model}
    found = cf.tl.annotate(some, min_known_genes=100, copy=True, **options)
    expected = annotated(some, fitted_to_it)
    np.testing.assert_allclose(found.obsm["cellfm_proba"], expected.obsm["cellfm_proba"], **SAME)
    with pytest.warns(DataWarning, match="200 of the 300 genes of the reference"):
        cf.tl.annotate(some, annotator, distance_threshold=np.inf)
    with pytest.warns(DataWarning, match="200 of the 300 genes of the reference"):
        cf.tl.annotate(some, shared_genes=False, distance_threshold=np.inf, **options)


def test_colors_of_the_reference_are_kept(reference, query, tiny_model):
    reference.uns["label_colors"] = ["#112233", "#445566"]
    cf.tl.annotate(query, reference=reference, labels_key="label", model=tiny_model)
    assert query.uns["cellfm_label_colors"][:2] == ["#112233", "#445566"]


def test_mudata(query, annotator):
    with without_pulling():
        proteins = query[:, :5].copy()
        proteins.var_names = [f"protein{i}" for i in range(5)]
        both = md.MuData({"rna": query.copy(), "adt": proteins})
    cf.tl.annotate(both, annotator)
    assert LABEL in both["rna"].obs
    assert LABEL not in both["adt"].obs


def test_what_was_fitted_is_kept(query, reference, tiny_model, tmp_path):
    options = {"reference": reference, "labels_key": "label", "model": tiny_model, "copy": True}
    found = cf.tl.annotate(query, save_annotator=tmp_path / "kept", **options)
    again = cf.tl.annotate(query, tmp_path / "kept", copy=True)
    np.testing.assert_array_equal(again.obsm["cellfm_proba"], found.obsm["cellfm_proba"])
    with pytest.raises(InputError, match=r"exists already.*pass overwrite=True to replace it"):
        cf.tl.annotate(query, save_annotator=tmp_path / "kept", **options)
    reference.obs["label"] = reference.obs["label"].astype(str) + " cells"
    cf.tl.annotate(query, save_annotator=tmp_path / "kept", overwrite=True, **options)
    assert Annotator.load(tmp_path / "kept").classes == ("A cells", "B cells")


def test_only_an_annotator_is_replaced_by_one(query, reference, tiny_model, annotator, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("do not lose")
    (tmp_path / "file").write_text("nor this")
    (tmp_path / "empty").mkdir()
    annotator.save(tmp_path / "empty", overwrite=True)
    assert Annotator.load(tmp_path / "empty").classes == annotator.classes
    monkeypatch.setattr(CellFM, "encode", None)  # refused before the fit
    fit = {"reference": reference, "labels_key": "label", "model": tiny_model, "overwrite": True}
    for name, message in (
        ("mine", r"mine is not an annotator \(it has no annotator.json\), so it is not replaced"),
        ("file", "file is not an annotator"),
        ("file/below", "Could not write .*below"),
    ):
        with pytest.raises(InputError, match=message):
            cf.tl.annotate(query, save_annotator=tmp_path / name, **fit)
        with pytest.raises(InputError, match=message):
            annotator.save(tmp_path / name, overwrite=True)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "do not lose"
    assert (tmp_path / "file").read_text() == "nor this"


def test_the_query_as_its_own_reference_is_told(query, tiny_model):
    with pytest.warns(DataWarning, match="reference seems to be the query"):
        cf.tl.annotate(query, reference=query, labels_key="label", model=tiny_model)


def one_class(adata):
    adata.obs["label"] = "A"


def single_cell(adata):
    adata.obs["label"] = ["lone", *(["A", "B"] * 20)[: adata.n_obs - 1]]


def no_labels(adata):
    adata.obs["label"] = np.nan


def unknown_class(adata):
    adata.obs["label"] = ["Unknown", "A"] * (adata.n_obs // 2)


def no_genes(adata):
    adata.var_names = [f"NOTHING{i}" for i in range(adata.n_vars)]


BAD_REFERENCES = [
    (one_class, {}, InputError, "only one class"),
    (single_cell, {}, InputError, "single cell: 'lone'"),
    (no_labels, {}, InputError, "contains no labels"),
    (unknown_class, {}, InputError, "'Unknown'"),
    (no_genes, {}, InputError, "known to the model"),
    (None, {"labels_key": "kind"}, MissingKeyError, "Columns: label, batch"),
    (None, {"method": "some"}, InputError, "method must be one of 'frozen', 'lora', 'full'"),
    (None, {"head": "cnn"}, InputError, "head must be one of 'mlp', 'query'"),
    (None, {"n_layers": 4}, InputError, "n_layers"),
    (None, {"validation_fraction": 0}, InputError, "validation_fraction"),
    (None, {"class_weight": "all"}, InputError, "class_weight"),
    (None, {"lora_rank": 0}, InputError, "lora_rank"),
]


@pytest.mark.parametrize(("change", "options", "error", "message"), BAD_REFERENCES)
def test_bad_references_are_refused_before_any_work(
    reference, tiny_model, monkeypatch, change, options, error, message
):
    if change is not None:
        change(reference)
    monkeypatch.setattr(CellFM, "encode", None)
    with pytest.raises(error, match=message):
        cf.tl.fit_annotator(reference, tiny_model, **{"labels_key": "label"} | options)


def test_advice_on_the_reference_works_as_written(reference, query, tiny_model):
    sc.pp.normalize_total(reference, target_sum=1e4)
    sc.pp.log1p(reference)
    reference.layers["logs"] = reference.X
    match = r"The reference: .*recover_counts\(adata, layer='logs'\) first, and pass reference_layer='counts'"
    with pytest.raises(InputError, match=match):
        cf.tl.transfer_labels(query, reference, model=tiny_model, labels_key="label", reference_layer="logs")


def test_fine_tuning_needs_cells_to_judge_by(reference, tiny_model):
    with pytest.raises(InputError, match="method='lora' needs validation cells; no class has three cells or more"):
        cf.tl.fit_annotator(reference[:4].copy(), tiny_model, labels_key="label", method="lora")


def test_a_vote_is_within_clusters_of_the_annotators_embedding(reference, query, tiny_model):
    fitted = cf.tl.fit_annotator(reference, tiny_model, labels_key="label", method="full", head="query", n_epochs=1)
    voted = annotated(query, fitted, majority_voting=True)
    cf.tl.embed(query, fitted.model)
    query.obs["cluster"] = find_clusters(query.obsm["X_cellfm"])
    del query.obsm["X_cellfm"]
    assert voted.obs[LABEL].equals(annotated(query, fitted, majority_voting="cluster").obs[LABEL])
    two = query[:2].copy()  # too few for clusters
    assert annotated(two, fitted, majority_voting=True).obs[LABEL].equals(annotated(two, fitted).obs[LABEL])


def test_bad_queries_are_refused_before_any_work(query, reference, tiny_model, annotator, tmp_path, monkeypatch):
    monkeypatch.setattr(CellFM, "encode", None)
    with pytest.raises(InputError, match="either an annotator"):
        cf.tl.annotate(query, model=tiny_model)
    with pytest.raises(InputError, match="either an annotator"):
        cf.tl.annotate(query, annotator, reference=reference, labels_key="label")
    with pytest.raises(InputError, match="Pass labels_key="):
        cf.tl.annotate(query, reference=reference, model=tiny_model)
    fit = {"reference": reference, "labels_key": "label", "model": tiny_model}
    for source in ({"annotator": annotator}, fit):
        for wrong in (2.0, -0.1, np.nan, "0.5"):
            with pytest.raises(InputError, match="confidence_threshold must be a number from 0 to 1,"):
                cf.tl.annotate(query, **source, confidence_threshold=wrong)
        for wrong in (-1.0, np.nan, "far"):
            with pytest.raises(InputError, match="distance_threshold must be a number of 0 or more"):
                cf.tl.annotate(query, **source, distance_threshold=wrong)
    with pytest.raises(InputError, match="method must be one of"):
        cf.tl.annotate(query, **fit, method="some")
    with pytest.raises(MissingKeyError, match="majority_voting='clusters'"):
        cf.tl.annotate(query, annotator, majority_voting="clusters")
    with pytest.raises(InputError, match="no reference to fit"):
        cf.tl.annotate(query, annotator, save_annotator=tmp_path / "new")
    some, others = query[:, :150].copy(), reference[:, 150:].copy()
    options = {"labels_key": "label", "min_known_genes": 20}
    with pytest.raises(InputError, match="share only 0 genes"):
        cf.tl.annotate(some, reference=others, model=tiny_model, **options)


def test_a_query_without_a_common_gene_is_refused(query, reference, tiny_model):
    annotator = cf.tl.fit_annotator(reference[:, 150:].copy(), tiny_model, labels_key="label", min_known_genes=20)
    with pytest.raises(InputError, match="shares no gene with the reference"):
        cf.tl.annotate(query[:, :150].copy(), annotator, min_known_genes=20)


def test_long_cells_are_sampled_by_the_annotators_seed(reference, query, tiny_vocab):
    small = CellFM(ModelConfig(2, 16, 2, len(tiny_vocab), d_value=16, max_genes=100), tiny_vocab, random_state=7)
    annotator = cf.tl.fit_annotator(reference, small, labels_key="label", random_state=5)
    by_tool = annotated(query, annotator, random_state=0).obs[CONFIDENCE]
    np.testing.assert_allclose(by_tool, annotator.predict(query)["confidence"], **SAME)
