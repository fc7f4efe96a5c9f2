"""Fitting and predicting perturbations: what is written, saved, judged and refused."""

import copy
import dataclasses
import itertools
import json
import pickle

import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData

import cellfm as cf
from cellfm.cells.mudata import without_pulling
from cellfm.errors import CheckpointError, DataWarning, InputError, MissingKeyError
from cellfm.model import CellFM
from cellfm.tasks.perturbation._baselines import gene_effects
from cellfm.tasks.perturbation._predictor import PerturbationPredictor

N_GENES, N_CELLS = 60, 30
PERTURBED = [f"GENE{i}" for i in range(8)]
SMALL = {"condition_key": "condition", "min_known_genes": 10, "n_epochs": 2, "width": 8}
BASELINES = ["no change", "mean change", "additive", "gene effects", "bilinear, PCA genes", "bilinear, CellFM genes"]


@pytest.fixture(scope="module")
def adata() -> AnnData:
    """Counts of control, 8 singles and 6 pairs, 30 cells each; each perturbation multiplies some genes."""
    generator = np.random.default_rng(0)
    effects = dict(zip(PERTURBED, generator.standard_normal((8, N_GENES)) * 0.5, strict=True))
    pairs = ["+".join(pair) for pair in itertools.combinations(PERTURBED[:4], 2)]
    labels = ["ctrl", *(f"{gene}+ctrl" for gene in PERTURBED), *pairs]
    base = generator.gamma(2.0, 2.0, N_GENES)
    blocks = [
        generator.poisson(np.exp(sum(effects.get(gene, 0) for gene in label.split("+"))) * base, (N_CELLS, N_GENES))
        for label in labels
    ]
    obs = pd.DataFrame({"condition": np.repeat(labels, N_CELLS)})
    obs.index = [f"cell{i}" for i in range(len(obs))]
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(N_GENES)])
    return AnnData(sp.csr_matrix(np.concatenate(blocks).astype(np.float32)), obs=obs, var=var)


@pytest.fixture(scope="module")
def predictor(adata: AnnData, tiny_model: CellFM) -> PerturbationPredictor:
    return cf.tl.fit_perturbation(adata, tiny_model, uncertainty=True, candidates=["GENE200"], **SMALL)


def test_the_evaluation_has_the_network_and_every_baseline_by_subgroup(predictor: PerturbationPredictor):
    table = predictor.evaluation
    assert table["predictor"].unique().tolist() == ["network", *BASELINES]
    test = predictor.split.test
    assert table["subgroup"].unique().tolist() == ["all", *sorted(set(predictor.split.subgroups.values()))]
    whole = table[(table["subgroup"] == "all") & (table["metric"] == "mse")].set_index("predictor")
    assert (whole["n_conditions"] == len(test)).all()
    for name, scores in predictor.scores.groupby("predictor"):
        assert len(scores) == len(test)
        assert whole.loc[name, "mean"] == pytest.approx(scores["mse"].mean())
    changed = predictor.profiles.changes(test)
    assert whole.loc["no change", "mean"] == pytest.approx((changed**2).mean(), rel=1e-4)
    correlation = table[table["metric"] == "pearson_delta"].set_index(["subgroup", "predictor"])["mean"]["all"]
    assert whole.loc["network", "best_baseline"] == correlation.drop("network").idxmax()


def test_the_epoch_is_chosen_on_validation_alone(predictor: PerturbationPredictor):
    assert predictor.history["epoch"].tolist() == [0, 1, 2]
    assert predictor.history["kept"].sum() == 1
    best = predictor.history.set_index("kept").loc[True, "validation_mse_top20"]
    split, profiles = predictor.split, predictor.profiles
    start = gene_effects(split.validation, split.train, profiles.changes(split.train))
    by_effects = predictor.changes(split.validation, "gene effects")
    departure = predictor.changes(split.validation, "network") - by_effects
    found = profiles.control + start + departure
    observed, top = profiles.means(split.validation), profiles.top(split.validation)
    errors = [np.mean((f[t] - o[t]) ** 2) for f, o, t in zip(found, observed, top, strict=True)]
    assert np.mean(errors) == pytest.approx(best, rel=1e-3)
    least = predictor.history["validation_mse_top20"].idxmin()
    assert predictor.history["kept"].idxmax() <= least
    assert not set(split.train) & set(split.test)


@pytest.mark.filterwarnings("ignore:'gene effects' predicts the same:cellfm.errors.DataWarning")
def test_profiles_are_control_and_change(predictor: PerturbationPredictor, adata: AnnData):
    found = cf.tl.perturb(predictor, ["GENE1", "GENE2+GENE1", "GENE200", "ctrl"])
    assert found.shape == (4, N_GENES)
    assert found.obs["cellfm_perturbation"].tolist() == ["GENE1", "GENE1+GENE2", "GENE200", "ctrl"]
    parts = [predictor.split.part_of(("GENE1",)), predictor.split.part_of(("GENE1", "GENE2")), "new", "new"]
    assert found.obs["cellfm_part"].tolist() == parts
    counts = adata.X[:N_CELLS].toarray()
    control = np.log1p(1e4 * counts / counts.sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(found.X - found.layers["cellfm_change"], np.tile(control, (4, 1)), rtol=1e-4, atol=1e-4)
    assert not found.layers["cellfm_change"][3].any()
    observed = found.layers["cellfm_observed_change"]
    np.testing.assert_allclose(observed[1], predictor.profiles.changes((("GENE1", "GENE2"),))[0], atol=1e-6)
    assert np.isnan(observed[2]).all()
    assert not observed[3].any()
    assert found.uns["cellfm"]["perturbation"]["model"] == "tiny"
    assert found.uns["cellfm"]["perturbation"]["method"] == predictor.chosen
    np.testing.assert_array_equal(predictor.predict(["GENE1"]).to_numpy(), found.X[:1])
    by_network = cf.tl.perturb(predictor, ["GENE1"], method="network")
    assert (by_network.layers["cellfm_change_sd"] > 0).all()
    assert ("cellfm_change_sd" in found.layers) == (predictor.chosen == "network")


def test_each_method_predicts_and_the_chosen_one_by_default(predictor: PerturbationPredictor):
    wanted = ["GENE1", "GENE0+GENE7", "GENE200", "ctrl"]
    conditions = predictor.conditions(wanted)
    predicted = {method: predictor.predict(wanted, method) for method in predictor.methods}
    assert list(predicted) == ["network", *BASELINES]
    pd.testing.assert_frame_equal(predictor.predict(wanted), predicted[predictor.chosen])
    control = predictor.profiles.control
    np.testing.assert_allclose(predicted["no change"], np.tile(control, (4, 1)))
    additive_change = predictor.additive_changes(conditions)
    np.testing.assert_allclose(predicted["additive"], control + additive_change, rtol=1e-5)
    for method, table in predicted.items():
        np.testing.assert_allclose(table.loc["ctrl"], control, err_msg=method)
    # What is judged is what predicts.
    test = predictor.split.test
    for method in predictor.methods:
        scores = predictor.scores[predictor.scores["predictor"] == method]
        error = ((predictor.changes(test, method) - predictor.profiles.changes(test)) ** 2).mean(1)
        np.testing.assert_allclose(scores["mse"], error, rtol=1e-3)
    assert predictor.evaluation.query("chosen")["predictor"].unique().tolist() == [predictor.chosen]
    assert predictor.choice.query("chosen")["predictor"].tolist() == [predictor.chosen]
    assert f"predicts 60 genes, by {predictor.chosen!r} unless asked" in repr(predictor)
    assert "61 genes can be perturbed; gene embeddings of 'tiny'" in repr(predictor)
    with pytest.raises(InputError, match="method must be one of 'network', .*'additive'.*, not 'magic'"):
        cf.tl.perturb(predictor, ["GENE1"], method="magic")


def test_one_validation_condition_that_shows_a_gain_chooses_the_network(adata: AnnData, tiny_model: CellFM):
    cells = adata.copy()
    pairs = cells.obs["condition"].str.count("GENE") == 2
    cells.X = cells.X.toarray()
    cells.X[pairs.to_numpy(), 40:50] += 60  # what no single changes
    cells.obs["part"] = "train"
    cells.obs.loc[cells.obs["condition"] == "GENE2+GENE3", "part"] = "validation"
    cells.obs.loc[cells.obs["condition"] == "GENE1+GENE3", "part"] = "test"
    options = SMALL | {"n_epochs": 6, "learning_rate": 0.02}
    found = cf.tl.fit_perturbation(cells, tiny_model, split="part", **options)
    assert found.split.validation == (("GENE2", "GENE3"),)
    assert found.history["kept"].idxmax() > 0
    assert found.chosen != "gene effects"
    error = found.scores.set_index("predictor")["mse"]
    assert error[found.chosen] < error["gene effects"]
    assert found.choice.set_index("predictor").loc["network", "difference"] < 0


def test_guides_are_pooled_and_control_has_many_names(
    adata: AnnData, tiny_model: CellFM, caplog, predictor: PerturbationPredictor
):
    cells = adata.copy()
    guides = [f"_{i}" for i in (1, 2)] + ["_sg3"]
    labels = cells.obs["condition"].to_numpy(object)
    cells.obs["condition"] = [
        "NegCtrl" + str(i % 3)
        if label == "ctrl"
        else label.replace("+ctrl", guides[i % 3])
        if label.endswith("+ctrl")
        else label.replace("+", "_")
        for i, label in enumerate(labels)
    ]
    caplog.set_level("INFO", "cellfm")
    options = {"uncertainty": True, "candidates": ["GENE200"], **SMALL}
    found = cf.tl.fit_perturbation(cells, tiny_model, **options)
    assert found.split == predictor.split
    np.testing.assert_array_equal(found.profiles.mean, predictor.profiles.mean)
    assert "30 cells of 3 labels ('NegCtrl0', 'NegCtrl1', 'NegCtrl2')" in caplog.text
    assert "240 cells of 24 labels in obs['condition'] name guides" in caplog.text
    assert "pooled into 8 conditions: GENE0 (GENE0_1, GENE0_2, GENE0_sg3)" in caplog.text


def test_cells_are_controls_moved_by_the_change(predictor: PerturbationPredictor):
    means = cf.tl.perturb(predictor, ["GENE1", "GENE5"])
    cells = cf.tl.perturb(predictor, ["GENE1", "GENE5"], cells=True)
    assert cells.n_obs == 2 * N_CELLS
    own = cells[cells.obs["cellfm_perturbation"] == "GENE5"]
    np.testing.assert_allclose(own.X.mean(0), means["GENE5"].X[0], atol=1e-4)
    np.testing.assert_allclose(own.X - own.layers["cellfm_change"], predictor.controls, atol=1e-5)


@pytest.mark.filterwarnings("ignore:'gene effects' predicts the same:cellfm.errors.DataWarning")
def test_what_is_saved_is_loaded(predictor: PerturbationPredictor, tiny_model: CellFM, tmp_path):
    predictor.save(tmp_path / "predictor")
    loaded = PerturbationPredictor.load(tmp_path / "predictor", tiny_model)
    wanted = ["GENE1", "GENE0+GENE7", "GENE200"]
    pd.testing.assert_frame_equal(loaded.predict(wanted), predictor.predict(wanted))
    pd.testing.assert_frame_equal(loaded.evaluation, predictor.evaluation, check_dtype=False)
    assert loaded.split == predictor.split
    assert loaded.chosen == predictor.chosen
    pd.testing.assert_frame_equal(loaded.choice, predictor.choice, check_dtype=False)
    for method in predictor.methods:
        pd.testing.assert_frame_equal(loaded.predict(wanted, method), predictor.predict(wanted, method))
    assert loaded.recipe == predictor.recipe
    found = cf.tl.perturb(tmp_path / "predictor", wanted)
    np.testing.assert_array_equal(found.X, cf.tl.perturb(predictor, wanted).X)
    ranks = [
        cf.tl.rank_perturbations(one, found["GENE1"].to_df().iloc[0]) for one in (predictor, tmp_path / "predictor")
    ]
    pd.testing.assert_frame_equal(*ranks)
    with pytest.raises(InputError, match="found DataFrame"):
        cf.tl.perturb(ranks[0], wanted)
    with pytest.raises(InputError, match="exists already"):
        predictor.save(tmp_path / "predictor")


def test_a_predictor_from_before_there_was_a_choice_predicts_by_the_network(
    predictor: PerturbationPredictor, tmp_path, monkeypatch
):
    from cellfm.tasks.perturbation import _files

    write = _files.FILES.write

    def older(folder, facts, arrays, **options):
        facts = {name: value for name, value in facts.items() if name not in ("chosen", "choice")}
        write(folder, facts, {name: a for name, a in arrays.items() if not name.startswith("vectors.")}, **options)

    monkeypatch.setattr(type(_files.FILES), "write", lambda self, *args, **options: older(*args, **options))
    monkeypatch.setattr(_files, "FILES", _files.FILES)
    predictor.save(tmp_path / "older")
    monkeypatch.undo()
    found = PerturbationPredictor.load(tmp_path / "older")
    assert found.chosen == "network"
    pd.testing.assert_frame_equal(found.predict(["GENE1"]), predictor.predict(["GENE1"], "network"))
    with pytest.raises(InputError, match="method must be one of 'network', 'no change', 'mean change', 'additive'"):
        found.predict(["GENE1"], "bilinear, PCA genes")


def test_another_model_and_damaged_files_are_refused(predictor: PerturbationPredictor, tiny_model: CellFM, tmp_path):
    folder = tmp_path / "predictor"
    predictor.save(folder)
    other = CellFM(tiny_model.config, tiny_model.vocab, name="other", random_state=1)
    with pytest.raises(CheckpointError, match="a different model"):
        PerturbationPredictor.load(folder, other)
    facts = json.loads((folder / "predictor.json").read_text())
    (folder / "predictor.json").write_text(json.dumps(facts | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        PerturbationPredictor.load(folder)
    (folder / "predictor.json").write_text(json.dumps(facts))
    content = (folder / "predictor.safetensors").read_bytes()
    (folder / "predictor.safetensors").write_bytes(content[:-1] + b"x")
    with pytest.raises(CheckpointError, match="damaged"):
        PerturbationPredictor.load(folder)
    with pytest.raises(InputError, match="not a predictor"):
        PerturbationPredictor.load(tmp_path)


@pytest.mark.parametrize("options", [{"genes": "learned", "perturbation": "learned"}, {"genes": "contextual"}])
def test_vectors_may_be_learnt_or_contextual_and_all_conditions_learnt(adata, tiny_model, options):
    found = cf.tl.fit_perturbation(adata, tiny_model, split="all", **options, **(SMALL | {"n_epochs": 1}))
    assert np.isfinite(found.predict(["GENE1", "GENE0+GENE7"]).to_numpy()).all()
    assert not found.split.test
    assert found.evaluation.empty


def test_contextual_genes_read_counts_of_their_own(adata: AnnData, tiny_model: CellFM):
    options = {"split": "all", "genes": "contextual"} | SMALL | {"n_epochs": 1}
    expected = cf.tl.fit_perturbation(adata, tiny_model, **options).predict(["GENE1"])
    normalised = adata.copy()
    normalised.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(normalised, target_sum=1e4)
    sc.pp.log1p(normalised)
    found = cf.tl.fit_perturbation(normalised, tiny_model, counts_layer="counts", **options).predict(["GENE1"])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    with pytest.raises(InputError, match="counts"):
        cf.tl.fit_perturbation(normalised, tiny_model, **options)


def test_a_column_may_split_the_conditions(adata: AnnData, tiny_model: CellFM):
    cells = adata.copy()
    cells.obs["part"] = np.where(cells.obs["condition"].str.startswith("GENE3"), "test", "train")
    found = cf.tl.fit_perturbation(cells, tiny_model, split="part", **(SMALL | {"n_epochs": 1}))
    assert {condition[0] for condition in found.split.test} == {"GENE3"}
    cells.obs.iloc[-1, 1] = "train" if cells.obs.iloc[-1, 1] == "test" else "test"
    with pytest.raises(InputError, match="several parts"):
        cf.tl.fit_perturbation(cells, tiny_model, split="part", **SMALL)
    with pytest.raises(MissingKeyError, match="condition"):
        cf.tl.fit_perturbation(adata, tiny_model, split="part", **SMALL)


def test_log_normalised_values_and_the_guides_of_a_mudata_give_the_same(
    adata: AnnData, tiny_model: CellFM, predictor: PerturbationPredictor
):
    rna = adata.copy()
    rna.X = sp.csr_matrix(sp.diags(1e4 / np.asarray(rna.X.sum(1)).ravel()) @ rna.X, dtype=np.float32).log1p()
    guides = AnnData(np.ones((rna.n_obs, 1), np.float32), obs=rna.obs, var=pd.DataFrame(index=["guide"]))
    del rna.obs["condition"]
    with without_pulling():
        data = mudata.MuData({"rna": rna, "gdo": guides})
    found = cf.tl.fit_perturbation(data, tiny_model, uncertainty=True, candidates=["GENE200"], **SMALL)
    np.testing.assert_allclose(found.profiles.mean, predictor.profiles.mean, atol=1e-4)
    assert found.split == predictor.split
    np.testing.assert_allclose(found.predict(PERTURBED), predictor.predict(PERTURBED), atol=0.01)


def test_what_cannot_be_used_is_refused_before_anything_is_fitted(
    adata: AnnData, tiny_model: CellFM, predictor: PerturbationPredictor
):
    with pytest.raises(InputError, match="No control cells.*GENE0"):
        cf.tl.fit_perturbation(adata[N_CELLS:].copy(), tiny_model, **SMALL)
    strange = adata.copy()
    strange.obs["condition"] = strange.obs["condition"].str.replace("GENE7", "NOSUCH")
    with pytest.raises(InputError, match="No information on 1 perturbed gene: NOSUCH.*'NOSUCH\\+ctrl' \\(30\\)"):
        cf.tl.fit_perturbation(strange, tiny_model, **SMALL)
    negative = adata.copy()
    negative.X = -negative.X
    with pytest.raises(InputError, match="negative"):
        cf.tl.fit_perturbation(negative, tiny_model, **SMALL)
    with pytest.raises(InputError, match="genes must be"):
        cf.tl.fit_perturbation(adata, tiny_model, genes="random", **SMALL)
    with pytest.raises(InputError, match="perturbation must be 'cellfm' or 'learned', not 'random'"):
        cf.tl.fit_perturbation(adata, tiny_model, perturbation="random", **SMALL)
    with pytest.raises(InputError, match="start must be one of 'effects', 'additive', 'mean', 'none', not 'zero'"):
        cf.tl.fit_perturbation(adata, tiny_model, start="zero", **SMALL)
    with pytest.raises(InputError, match="learning_rate must be a number above 0, not 0"):
        cf.tl.fit_perturbation(adata, tiny_model, learning_rate=0, **SMALL)
    with pytest.raises(InputError, match="n_epochs"):
        cf.tl.fit_perturbation(adata, tiny_model, **(SMALL | {"n_epochs": 0}))
    with pytest.raises(InputError, match="does not know NOSUCH"):
        cf.tl.perturb(predictor, ["GENE1+NOSUCH"])
    with pytest.raises(InputError, match="found an empty list"):
        cf.tl.perturb(predictor, [])
    assert list(cf.tl.perturb(predictor, "GENE1").obs_names) == ["GENE1"]


def test_equal_predictions_of_genes_that_were_never_perturbed_are_named(predictor: PerturbationPredictor):
    with pytest.warns(DataWarning, match="'additive' predicts the same change for GENE20, GENE30: it learned nothing"):
        found = cf.tl.perturb(predictor, ["GENE20", "GENE30", "ctrl"], method="additive")
    np.testing.assert_array_equal(found.X[0], found.X[1])


def test_a_measured_condition_is_found_first_by_its_own_profile(predictor: PerturbationPredictor, adata: AnnData):
    known = next(condition for condition in predictor.split.train if len(condition) == 1)[0]
    cells = adata[adata.obs["condition"] == f"{known}+ctrl"].copy()
    table = cf.tl.rank_perturbations(predictor, cells, top_k=None)
    assert len(table) == 8 + 28
    assert table.loc[0, "perturbation"] == known
    assert table.loc[0, "cosine"] == pytest.approx(1, abs=1e-4)
    assert table.loc[0, "source"] == "measured"
    assert (table["n_genes"] == N_GENES - 8).all()  # the candidates' own genes are left out
    predicted = cf.tl.rank_perturbations(predictor, cells, measured=False, own_genes=True, by="euclidean", top_k=3)
    assert predicted["source"].tolist() == ["predicted"] * 3
    assert predicted["euclidean"].is_monotonic_increasing
    assert (predicted["n_genes"] == N_GENES).all()


def test_own_genes_change_no_ranking(predictor: PerturbationPredictor):
    target = predictor.predict(["GENE1+GENE6"]).iloc[0]
    before = cf.tl.rank_perturbations(predictor, target, measured=False)
    moved = target.copy()
    moved[PERTURBED] += 100
    pd.testing.assert_frame_equal(cf.tl.rank_perturbations(predictor, moved, measured=False), before)
    assert before.loc[0, "perturbation"] == "GENE1+GENE6"
    assert before.loc[0, "euclidean"] == pytest.approx(0, abs=1e-4)


def test_predicted_cells_are_a_target_even_where_rounding_makes_them_negative(predictor: PerturbationPredictor):
    predicted = cf.tl.perturb(predictor, ["GENE1+GENE6"])
    predicted.X = np.asarray(predicted.X).copy()
    predicted.X[0, 0] = -1e-8
    assert cf.tl.rank_perturbations(predictor, predicted, measured=False).loc[0, "perturbation"] == "GENE1+GENE6"


def test_a_change_is_taken_against_the_control_that_is_given(predictor: PerturbationPredictor):
    target = predictor.predict(["GENE3"]).iloc[0] + 5
    control = pd.Series(predictor.profiles.control, index=list(predictor.genes)) + 5
    table = cf.tl.rank_perturbations(predictor, target, control=control, measured=False)
    assert table.loc[0, "perturbation"] == "GENE3"
    assert table.loc[0, "euclidean"] == pytest.approx(0, abs=1e-4)


def test_targets_that_say_too_little_are_refused(predictor: PerturbationPredictor):
    with pytest.raises(InputError, match="0 of the predictor's 60 genes"):
        cf.tl.rank_perturbations(predictor, pd.Series([1.0, 2.0], index=["CD3E", "CD4"]))
    target = predictor.predict(["GENE3"]).iloc[0]
    with pytest.warns(DataWarning, match="20 of the predictor's 60 genes"):
        cf.tl.rank_perturbations(predictor, target[-20:])
    with pytest.raises(InputError, match="are left to compare"):
        cf.tl.rank_perturbations(predictor, target, candidates=[f"GENE{i}" for i in range(55)])
    with pytest.raises(InputError, match="does not know NOSUCH"):
        cf.tl.rank_perturbations(predictor, target, candidates=["NOSUCH"])
    unlike = pd.Series(1.0, index=[f"GENE{i}" for i in range(100, 160)])
    with pytest.raises(InputError, match="control of the target shares too few genes"):
        cf.tl.rank_perturbations(predictor, target, control=unlike)
    with pytest.raises(InputError, match="values that are not finite"):
        cf.tl.rank_perturbations(predictor, target.where(target.index != "GENE3"))
    with pytest.raises(InputError, match="top_k must be a whole number of 1 or more, or None, not 0"):
        cf.tl.rank_perturbations(predictor, target, top_k=0)
    with pytest.raises(InputError, match="found ndarray"):
        cf.tl.rank_perturbations(predictor, target.to_numpy())
    with pytest.raises(InputError, match="by must be"):
        cf.tl.rank_perturbations(predictor, target, by="pearson")


def test_hits_grow_with_k_and_stand_beside_chance_and_the_additive_model(predictor: PerturbationPredictor):
    table = cf.tl.evaluate_perturbation_ranking(predictor, most=36)
    shown = dict.fromkeys(["network", "additive", "gene effects", predictor.chosen, "chance"])
    assert table["predictor"].unique().tolist() == list(shown)
    for _, own in table.groupby("predictor"):
        assert own["correct"].is_monotonic_increasing
        assert (own["relevant"] >= own["correct"]).all()
        assert own["correct"].iloc[-1] == own["relevant"].iloc[-1] == pytest.approx(1)  # all 36 candidates
    chance = table[table["predictor"] == "chance"].set_index("k")
    assert chance.loc[9, "correct"] == pytest.approx(9 / 36)
    assert (table["n_targets"] == len(predictor.split.test)).all()
    seen = "+".join(predictor.split.train[0])
    with pytest.raises(InputError, match="most must be a whole number of 1 or more, not 0"):
        cf.tl.evaluate_perturbation_ranking(predictor, most=0)
    with pytest.raises(InputError, match="genes are left to compare; .* Pass fewer candidates"):
        cf.tl.evaluate_perturbation_ranking(
            predictor, candidates=[*map("+".join, predictor.split.test), *map("GENE{}".format, range(55))]
        )
    with pytest.raises(InputError, match="No test condition is among the candidates"):
        cf.tl.evaluate_perturbation_ranking(predictor, candidates=[seen])


@pytest.mark.parametrize("chosen", ["network", "additive", "gene effects", "mean change"])
def test_hits_have_the_same_baselines_whatever_is_chosen(predictor: PerturbationPredictor, chosen: str):
    table = cf.tl.evaluate_perturbation_ranking(dataclasses.replace(predictor, chosen=chosen), most=2)
    shown = dict.fromkeys(["network", "additive", "gene effects", chosen, "chance"])
    assert table["predictor"].unique().tolist() == list(shown)


def test_a_screen_predicts_all_pairs_and_groups_them(predictor: PerturbationPredictor, tmp_path):
    screen = cf.tl.screen_perturbations(predictor, PERTURBED[:6], resolution=0.5, n_neighbors=5)
    assert screen.shape == (15, N_GENES)
    np.testing.assert_array_equal(screen.X[:1], predictor.predict([screen.obs_names[0]]))
    clusters = screen.uns["cellfm"]["perturbation"]["clusters"]
    assert clusters["n"].sum() == 15
    assert clusters["n"].is_monotonic_decreasing
    for cluster, gene in clusters[["cluster", "gene"]].to_numpy():
        named = screen.obs.loc[screen.obs["cellfm_cluster"] == cluster, "cellfm_dominant_gene"]
        assert set(named.dropna()) == ({gene} if gene else set())
    every = cf.tl.screen_perturbations(predictor, PERTURBED[:6], min_share=0, umap=False)
    assert every.obs["cellfm_dominant_gene"].notna().all()
    none = cf.tl.screen_perturbations(predictor, PERTURBED[:6], resolution=0.01, n_neighbors=14, umap=False)
    assert none.uns["cellfm"]["perturbation"]["clusters"].loc[0, ["n", "gene"]].tolist() == [15, ""]
    assert none.obs["cellfm_dominant_gene"].isna().all()
    screen.write_h5ad(tmp_path / "screen.h5ad")
    none.write_h5ad(tmp_path / "none.h5ad")
    with pytest.raises(InputError, match="'mean change' predicts the same change for all 15 perturbations"):
        cf.tl.screen_perturbations(predictor, PERTURBED[:6], method="mean change")
    with pytest.raises(InputError, match="min_share must be a number from 0 to 1, not 2"):
        cf.tl.screen_perturbations(predictor, PERTURBED[:6], min_share=2)
    assert np.isfinite(screen.obsm["X_umap"]).all()
    both = cf.tl.screen_perturbations(predictor, PERTURBED[:3], kind="both", umap=False)
    assert both.obs_names.tolist() == [*PERTURBED[:3], "GENE0+GENE1", "GENE0+GENE2", "GENE1+GENE2"]
    with pytest.raises(InputError, match="1 gene gives 0 perturbations"):
        cf.tl.screen_perturbations(predictor, "GENE1")
    with pytest.raises(InputError, match="5 measured genes are not perturbed; .* are needed"):
        cf.tl.screen_perturbations(predictor, [f"GENE{i}" for i in range(55)], kind="singles")
    with pytest.raises(InputError, match="needs at least three"):
        cf.tl.screen_perturbations(predictor, PERTURBED[:2])
    with pytest.raises(InputError, match="does not know NOSUCH"):
        cf.tl.screen_perturbations(predictor, [*PERTURBED, "NOSUCH"])
    with pytest.raises(InputError, match="kind must be"):
        cf.tl.screen_perturbations(predictor, PERTURBED, kind="triples")


def test_a_copy_of_a_predictor_says_the_same(predictor: PerturbationPredictor):
    expected = predictor.predict(["GENE1+GENE2"])
    for other in (copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor))):
        pd.testing.assert_frame_equal(other.predict(["GENE1+GENE2"]), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
def test_antibodies_are_no_genes_of_a_predictor(adata: AnnData, tiny_model: CellFM):
    antibodies = sp.csr_matrix(np.random.default_rng(1).poisson(90, (adata.n_obs, 2)).astype(np.float32))
    types = pd.DataFrame({"feature_types": ["Antibody Capture"] * 2}, index=["GENE3", "GENE4"])
    genes = adata.var.assign(feature_types="Gene Expression")
    both = AnnData(sp.hstack([antibodies, adata.X], format="csr"), obs=adata.obs, var=pd.concat([types, genes]))
    with pytest.warns(DataWarning, match="2 rows of var are left out: 2 Antibody Capture"):
        found = cf.tl.fit_perturbation(both, tiny_model, **SMALL)
    alone = cf.tl.fit_perturbation(adata, tiny_model, **SMALL)
    assert found.genes == alone.genes
    pd.testing.assert_frame_equal(found.scores, alone.scores)
