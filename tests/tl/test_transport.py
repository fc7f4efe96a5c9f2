"""`cf.tl.fit_transport`, `cf.tl.transport` and `cf.tl.compare_transport`, on cells with a known response."""

import copy
import json
import pickle
import sys
from dataclasses import replace
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from sklearn.decomposition import PCA

import cellfm as cf
from cellfm.errors import CheckpointError, DataWarning, InputError, InputTypeError, MissingKeyError
from cellfm.model import CellFM
from cellfm.tasks.transport import _scgen
from cellfm.tasks.transport._maps import Map
from cellfm.tasks.transport._model import TransportModel
from cellfm.tasks.transport._recipe import Recipe
from cellfm.tl import _fit_transport

N = 320
RESPONSE = range(20)
BASE = {"condition_key": "condition", "source": "ctrl", "target": "stim"}
QUICK = {"method": "mean_shift", "space": "pca", "n_components": 10}


@pytest.fixture(scope="module")
def cells(tiny_vocab) -> AnnData:
    """Counts of two cell types, half of the cells with a response of 20 genes."""
    generator = np.random.default_rng(0)
    kind, treated = np.arange(N) % 2, np.arange(N) // 2 % 2
    mean = np.tile(generator.gamma(2.0, 2.0, 320), (N, 1))
    mean[:, 100:200] *= np.where(kind, 3.0, 1.0)[:, None]
    mean[:, RESPONSE] += np.where(treated, 15.0, 0.0)[:, None]
    obs = {"condition": np.where(treated, "stim", "ctrl"), "cell_type": np.where(kind, "B cells", "T cells")}
    names = [*tiny_vocab.symbols, *(f"UNKNOWN{i}" for i in range(20))]
    return AnnData(
        sp.csr_matrix(generator.poisson(mean + 0.5).astype(np.float32)),
        obs=pd.DataFrame(obs, index=[f"cell{i}" for i in range(N)]),
        var=pd.DataFrame(index=names),
    )


@pytest.fixture(scope="module")
def fitted(cells) -> TransportModel:
    return cf.tl.fit_transport(cells, **BASE, **QUICK, holdout=("cell_type", "B cells"))


@pytest.fixture(scope="module")
def of_cellfm(cells, tiny_model) -> TransportModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cellfm.tasks.transport._autoencoder.MAX_EPOCHS", 15)
        return cf.tl.fit_transport(cells, tiny_model, **BASE, n_components=5, n_genes=100, n_steps=50)


def control(cells: AnnData) -> AnnData:
    return cells[(cells.obs["condition"] == "ctrl") & (cells.obs["cell_type"] == "B cells")]


def treated(cells: AnnData) -> AnnData:
    return cells[(cells.obs["condition"] == "stim") & (cells.obs["cell_type"] == "B cells")]


def test_the_response_of_a_type_left_out_is_found(fitted):
    table = fitted.evaluation.set_index("method")
    assert list(table.index) == ["mean shift", "identity", "mean change"]
    assert table.loc["mean shift", "pearson_change"] > 0.9
    assert table.loc["mean shift", "r2_top50"] > 0.9 > table.loc["identity", "r2_top50"]
    assert table.loc["mean shift", "mmd"] < table.loc["identity", "mmd"]
    assert (table["n_source"] == 80).all()
    assert (table["n_target"] == 80).all()


def test_cellot_in_the_space_of_the_model_comes_near(of_cellfm):
    table = of_cellfm.evaluation.set_index("method")
    assert table.loc["cellot", "r2"] > table.loc["identity", "r2"]
    assert set(of_cellfm.history["stage"]) == {"autoencoder", "cellot"}
    assert of_cellfm.history["validation"].notna().all()
    assert len(of_cellfm.genes) == 100


def test_predicted_cells_are_the_cells_with_the_response(cells, fitted):
    own = control(cells)
    found = cf.tl.transport(fitted, own)
    assert list(found.obs_names) == list(own.obs_names)
    assert list(found.var_names) == list(fitted.genes)
    assert set(found.obs["cellfm_condition"]) == {"stim"}
    assert found.X.dtype == np.float32
    assert found.X.min() >= 0
    change = pd.Series((found.X - found.layers["cellfm_before"]).mean(0), found.var_names)
    assert set(change.nlargest(20).index) == {f"GENE{i}" for i in RESPONSE}
    logged = np.log1p(own.X.toarray() * (1e4 / own.X.toarray().sum(1, keepdims=True)))
    places = own.var_names.get_indexer(found.var_names)
    np.testing.assert_allclose(found.layers["cellfm_before"], logged[:, places], rtol=1e-4)
    assert found.obsm["X_cellfm_transport"].shape == (80, 10)


def test_nothing_is_written_to_the_data(cells, of_cellfm):
    before = cells.copy()
    cf.tl.fit_transport(cells, **BASE, **QUICK)
    cf.tl.transport(of_cellfm, control(cells))
    assert list(cells.obs) == list(before.obs)
    assert not cells.obsm
    assert not cells.uns
    assert (cells.X != before.X).nnz == 0


def test_neither_the_order_of_genes_nor_that_of_cells_matters(cells, fitted, of_cellfm):
    own = control(cells)
    turned = own[np.arange(80)[::-1]][:, np.arange(320)[::-1]]
    for model in (fitted, of_cellfm):
        one, two = cf.tl.transport(model, own), cf.tl.transport(model, turned)
        # Sums in another order differ in the last digits, and the map enlarges that.
        np.testing.assert_allclose(one.X, two.X[::-1], rtol=1e-3, atol=1e-2)


def test_counts_and_their_logarithms_give_the_same(cells, fitted):
    logged = cells.copy()
    logged.X = sp.csr_matrix(logged.X.multiply(1e4 / np.asarray(logged.X.sum(1)))).log1p()
    again = cf.tl.fit_transport(logged, **BASE, **QUICK, holdout=("cell_type", "B cells"))
    np.testing.assert_allclose(again.evaluation["l2"], fitted.evaluation["l2"], rtol=1e-3)


@pytest.mark.filterwarnings("ignore:From 0.4 .update:FutureWarning")
def test_the_same_seed_gives_the_same_in_a_mudata_too(cells, fitted):
    again = cf.tl.fit_transport(MuData({"rna": cells.copy()}), **BASE, **QUICK, holdout=("cell_type", "B cells"))
    pd.testing.assert_frame_equal(again.evaluation, fitted.evaluation)
    other = cf.tl.fit_transport(cells, **BASE, **QUICK, random_state=1)
    assert not other.evaluation.equals(fitted.evaluation)


def test_no_change_changes_nothing(cells):
    model = cf.tl.fit_transport(cells, **BASE, method="identity", space="genes")
    found = cf.tl.transport(model, control(cells))
    assert (found.layers["cellfm_before"] == found.X).all()
    assert list(model.evaluation["method"]) == ["identity", "mean shift", "mean change"]


def test_saved_is_loaded(cells, of_cellfm, tiny_model, tmp_path):
    of_cellfm.save(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"transport.json", "transport.safetensors"}
    again = TransportModel.load(tmp_path / "model", tiny_model)
    own = control(cells)
    assert (cf.tl.transport(again, own).X == cf.tl.transport(of_cellfm, own).X).all()
    pd.testing.assert_frame_equal(again.evaluation, of_cellfm.evaluation)
    pd.testing.assert_frame_equal(again.history, of_cellfm.history, check_dtype=False)
    assert (again.recipe, again.genes, again.holdout) == (of_cellfm.recipe, of_cellfm.genes, of_cellfm.holdout)
    with pytest.raises(InputError, match="exists already"):
        of_cellfm.save(tmp_path / "model")


def test_a_model_without_cellfm_needs_none(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    again = TransportModel.load(tmp_path / "model")
    assert again.model is None
    assert again.holdout == ("cell_type", "B cells")
    assert "'ctrl' to 'stim' of obs['condition']" in repr(again)
    assert "method 'mean_shift' in the space 'pca'" in repr(again)


def test_a_folder_stands_for_the_model_in_it(fitted, cells, tmp_path):
    fitted.save(tmp_path / "model")
    own = control(cells)
    np.testing.assert_allclose(cf.tl.transport(tmp_path / "model", own).X, cf.tl.transport(fitted, own).X, atol=1e-5)
    compared = cf.tl.compare_transport(str(tmp_path / "model"), own, observed=treated(cells))
    assert compared.n_obs == 2 * own.n_obs + treated(cells).n_obs
    for tool, more in ((cf.tl.transport, {}), (cf.tl.compare_transport, {"observed": own})):
        with pytest.raises(InputError, match="is not a transport model"):
            tool(tmp_path / "missing", own, **more)
        with pytest.raises(InputTypeError, match=r"Expected the result of cf\.tl\.fit_transport or the folder"):
            tool(3, own, **more)


def test_another_model_and_damaged_files_are_refused(of_cellfm, tiny_model, tmp_path):
    folder = tmp_path / "model"
    of_cellfm.save(folder)
    other = CellFM(tiny_model.config, tiny_model.vocab, name="other", random_state=8)
    with pytest.raises(CheckpointError, match="fitted with a different model"):
        TransportModel.load(folder, other)
    with pytest.raises(CheckpointError, match="pass it as model="):
        TransportModel.load(folder)
    with pytest.raises(InputError, match="is not a transport model"):
        TransportModel.load(tmp_path)
    content = (folder / "transport.safetensors").read_bytes()
    (folder / "transport.safetensors").write_bytes(content[:-1] + b"x")
    with pytest.raises(CheckpointError, match="checksum"):
        TransportModel.load(folder, tiny_model)
    (folder / "transport.safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        TransportModel.load(folder, tiny_model)
    facts = json.loads((folder / "transport.json").read_text())
    (folder / "transport.json").write_text(json.dumps(facts | {"format": 9}))
    with pytest.raises(CheckpointError, match="format 9"):
        TransportModel.load(folder, tiny_model)


def test_comparison_has_all_cells_and_the_scores_of_the_fit(cells, fitted, tmp_path, monkeypatch):
    # UMAP takes long to compile, and is tested with cf.tl.integrate.
    monkeypatch.setattr("cellfm.tasks.integration._umap.umap_of", lambda latent, random_state: latent[:, :2] + 1)
    before, after = control(cells), treated(cells)
    found = cf.tl.compare_transport(fitted, before, observed=after, umap=True)
    assert found.obs["cellfm_state"].value_counts().to_dict() == {"before": 80, "predicted": 80, "observed": 80}
    predicted = cf.tl.transport(fitted, before)
    state = found.obs["cellfm_state"]
    assert (found[state == "predicted"].X == predicted.X).all()
    assert (predicted.layers["cellfm_before"] == found[state == "before"].X).all()
    np.testing.assert_allclose(
        found[state == "predicted"].obsm["X_cellfm_transport"], predicted.obsm["X_cellfm_transport"]
    )
    assert (found.obsm["X_cellfm_transport_umap"] == found.obsm["X_cellfm_transport"][:, :2] + 1).all()
    # The cells left out of the fit were these.
    scores = found.uns["cellfm"]["transport"]["scores"].set_index("method")
    expected = fitted.evaluation.set_index("method").loc[["mean shift", "identity"], list(scores)]
    pd.testing.assert_frame_equal(scores, expected, rtol=1e-4)
    assert found.obs_names.is_unique
    found.write_h5ad(tmp_path / "compared.h5ad")
    assert ad.read_h5ad(tmp_path / "compared.h5ad").shape == found.shape


def test_treated_cells_are_noticed(cells, fitted):
    with pytest.warns(DataWarning, match="160 of 320 cells are 'stim' already"):
        cf.tl.transport(fitted, cells)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": "drug"}, "has no 'drug'; available: ctrl, stim"),
        ({"source": "drug"}, "has no 'drug'; available: ctrl, stim"),
        ({"target": "ctrl"}, "source and target are both 'ctrl'"),
        (
            {"method": "magic"},
            "method must be one of .*'latent_shift', 'mean_shift', 'scgen', 'identity', not 'magic'",
        ),
        ({"space": "umap"}, "space must be one of 'cellfm', 'pca', 'genes', 'scgen', not 'umap'"),
        ({"space": "genes", "n_genes": 5000}, "at most 2,000 genes, found n_genes=5,000"),
        ({"test_fraction": 0.0}, "test_fraction must be above 0"),
        ({"test_fraction": 0.1}, "16 cells of 'ctrl' are left for test, and 20 are needed"),
        ({"holdout": "B cells"}, "holdout must be a column and a group"),
        ({"holdout": ("cell_type", "NK cells")}, "has no 'NK cells' in these conditions; available: B cells, T cells"),
        ({"n_components": 0}, "n_components must be a whole number of 1 or more"),
        ({"method": "latent_shift"}, "'latent_shift' balances its shift over groups of cells: pass groupby="),
        ({"groupby": "cell_type"}, "groupby= is for 'latent_shift' and 'scgen'; method='mean_shift' uses no groups"),
        ({"method": "scgen"}, "works in scGen's own latent space, not in space='pca'"),
    ],
)
def test_bad_options_are_refused(cells, options, said):
    with pytest.raises(InputError, match=said):
        cf.tl.fit_transport(cells, **(BASE | QUICK | options))


@pytest.mark.parametrize(
    "options",
    [{"condition_key": "drug"}, {"groupby": "drug", "method": "latent_shift"}, {"holdout": ("drug", "B cells")}],
)
def test_missing_columns_are_refused(cells, options):
    with pytest.raises(MissingKeyError, match="='drug' is not a column of obs. Columns: condition, cell_type"):
        cf.tl.fit_transport(cells, **(BASE | QUICK | options))


@pytest.mark.parametrize("missing", [None, "nan"])
def test_cells_without_a_condition_are_refused(cells, missing):
    some = cells.copy()
    some.obs["condition"] = some.obs["condition"].astype(object).where(np.arange(N) > 4, missing)
    with pytest.raises(InputError, match=r"obs\['condition'\] is missing for 5 of 320 cells"):
        cf.tl.fit_transport(some, **BASE, **QUICK)


@pytest.mark.parametrize("space", ["pca", "cellfm"])
def test_values_that_are_no_expression_are_refused(cells, tiny_model, space):
    scaled = cells.copy()
    scaled.X = scaled.X.toarray() - 1.5
    with pytest.raises(InputError, match="but adata.X has counts with -1.5 added"):
        cf.tl.fit_transport(scaled, tiny_model, **BASE, space=space, method="mean_shift")


def test_few_cells_are_refused(cells):
    few = cells[:60]
    with pytest.raises(InputError, match="are left for test, and 20 are needed"):
        cf.tl.fit_transport(few, **BASE, **QUICK)


def test_cells_of_other_genes_are_refused(cells, fitted):
    gene = fitted.genes[3]
    with pytest.raises(InputError, match=rf"1 of {len(fitted.genes)} genes is not in the data.*{gene}"):
        cf.tl.transport(fitted, control(cells)[:, cells.var_names != gene])
    twice = control(cells).copy()
    twice.var_names = ["GENE1", *twice.var_names[1:]]
    with pytest.raises(InputError, match="more than once"):
        cf.tl.transport(fitted, twice)


def test_two_observed_cells_are_no_comparison(cells, fitted):
    with pytest.raises(InputError, match="at least 3 cells of each condition, found 2"):
        cf.tl.compare_transport(fitted, control(cells), observed=treated(cells)[:2])


@pytest.fixture
def pertpy_stands_in(monkeypatch):
    """scGen's network with no hidden layers and the weights of PCA, as if pertpy had made it."""

    def train(values: np.ndarray, held_out: np.ndarray, recipe: Recipe) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
        pca = PCA(recipe.n_components, svd_solver="full").fit(values[~held_out])
        weight, offset = pca.components_.T, -pca.mean_ @ pca.components_.T
        arrays = {"encoder.mean.weight": weight, "encoder.mean.bias": offset}
        arrays |= {"decoder.mean.weight": weight.T, "decoder.mean.bias": pca.mean_}
        arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
        return arrays, pd.DataFrame({"epoch": [0], "loss": [1.0], "validation": [2.0]})

    monkeypatch.setattr(_scgen, "train_vae", train)
    monkeypatch.setattr(_scgen, "require_pertpy", lambda: None)
    monkeypatch.setattr(_fit_transport, "require_pertpy", lambda: None)


@pytest.mark.usefixtures("pertpy_stands_in")
def test_scgen_in_its_own_space_is_saved_and_needs_no_pertpy_afterwards(cells, tmp_path, monkeypatch):
    model = cf.tl.fit_transport(cells, **BASE, method="scgen", space="scgen", n_components=10, groupby="cell_type")
    assert model.space.kind == model.facts()["space"] == "scgen"
    assert list(model.history["stage"]) == ["autoencoder"]
    assert model.evaluation.set_index("method").loc["scgen", "pearson_change"] > 0.9
    model.save(tmp_path / "fitted")
    monkeypatch.setattr(_scgen, "train_vae", None)
    found = cf.tl.transport(TransportModel.load(tmp_path / "fitted"), control(cells))
    np.testing.assert_allclose(found.X, cf.tl.transport(model, control(cells)).X, atol=1e-5)


@pytest.mark.parametrize("standing_in", [(), ("pertpy",), ("pertpy", "scvi", "flax")])
@pytest.mark.parametrize("options", [{}, {"groupby": "cell_type"}, {"space": "scgen"}])
def test_scgen_is_refused_with_the_extra_whatever_part_of_it_is_installed(cells, monkeypatch, standing_in, options):
    for name in _scgen.NEEDED:
        there = SimpleNamespace(tl=SimpleNamespace(Scgen=None)) if name in standing_in else None
        monkeypatch.setitem(sys.modules, name, there)
    refused = pytest.raises(ImportError, match=r"cellfm\[scgen\].*method='latent_shift'")
    with refused as error:
        cf.tl.fit_transport(cells, **BASE, **options, method="scgen")
    assert isinstance(error.value, InputError)


@pytest.mark.usefixtures("pertpy_stands_in")
def test_a_balanced_shift_is_no_mean_shift_and_scgen_is_one_in_its_own_space(cells):
    groups = {"groupby": "cell_type", "n_components": 10}
    unequal = cells[np.flatnonzero((cells.obs["cell_type"] == "T cells") | (np.arange(N) < N // 2))]
    table = cf.tl.fit_transport(unequal, **BASE, **groups, method="latent_shift", space="pca").evaluation
    table = table.set_index("method")
    assert list(table.index) == ["latent_shift", "identity", "mean shift", "mean change"]
    assert table.loc["latent_shift", "r2"] != table.loc["mean shift", "r2"]
    fitted = cf.tl.fit_transport(unequal, **BASE, **groups, method="scgen")
    assert (fitted.method, fitted.space.kind) == ("scgen", "scgen")
    ours = cf.tl.fit_transport(unequal, **BASE, **groups, method="latent_shift", space="scgen")
    np.testing.assert_array_equal(ours.map.arrays["shift"], fitted.map.arrays["shift"])
    with pytest.raises(InputError, match="'scgen' balances its shift over groups of cells: pass groupby="):
        cf.tl.fit_transport(unequal, **BASE, method="scgen")


def test_an_older_file_with_a_shift_called_scgen_is_read_as_what_it_is(cells, tmp_path):
    fitted = cf.tl.fit_transport(cells, **BASE, method="latent_shift", space="pca", groupby="cell_type")
    older = replace(fitted, map=Map("scgen", fitted.map.arrays))
    older.save(tmp_path / "older")
    found = TransportModel.load(tmp_path / "older")
    assert found.method == "latent_shift"
    assert (cf.tl.transport(found, control(cells)).X == cf.tl.transport(fitted, control(cells)).X).all()


@pytest.mark.parametrize("name", ["fitted", "of_cellfm"])
def test_a_copy_of_a_transport_carries_the_same(cells, name: str, request: pytest.FixtureRequest):
    model = request.getfixturevalue(name)
    expected = cf.tl.transport(model, control(cells)).X
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_allclose(cf.tl.transport(other, control(cells)).X, expected, atol=1e-5)
