"""`cf.tl.integrate`: batches come to lie together, types stay apart, and bad input is refused before any work."""

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import cellfm as cf
from cellfm.cells.mudata import without_pulling
from cellfm.cells.tokenize import tokenize
from cellfm.config import ModelConfig
from cellfm.errors import DataWarning, InputError, MissingKeyError
from cellfm.model import CellFM
from cellfm.tasks.integration import _integrate
from cellfm.tasks.integration._batches import choose_cells, hold_out
from cellfm.train._integrate_criterion import separability
from cellfm.train._start import start_weights

QUICK = {"batch_key": "batch", "steps": 2, "train_batch_size": 8}


@pytest.fixture(scope="module")
def model(tiny_vocab):
    return CellFM(ModelConfig(2, 16, 2, len(tiny_vocab), d_value=8), tiny_vocab, name="tiny", random_state=2)


@pytest.fixture
def two_batches(tiny_vocab) -> AnnData:
    """160 cells of two types; in the second batch other genes are counted four times as often."""
    generator = np.random.default_rng(3)
    label, batch = np.arange(160) % 2, np.arange(160) // 80
    mean = np.tile(generator.gamma(2.0, 1.0, 300), (160, 1))
    mean[:, :100] *= np.where(label, 3.0, 1.0)[:, None]
    mean[:, 200:] *= np.where(batch, 4.0, 1.0)[:, None]
    obs = pd.DataFrame({"label": pd.Categorical(label.astype(str)), "batch": pd.Categorical(batch.astype(str))})
    counts = sp.csr_matrix(generator.poisson(mean + 0.5).astype(np.float32))
    return AnnData(counts, obs=obs.set_index(obs.index.astype(str)), var=pd.DataFrame(index=list(tiny_vocab.symbols)))


def emptied(adata: AnnData, cell: int) -> None:
    adata.X = sp.csr_matrix(adata.X.multiply((np.arange(adata.n_obs) != cell)[:, None]))
    adata.X.eliminate_zeros()


@pytest.fixture
def no_work(monkeypatch):
    """Fail if anything is computed."""

    def refuse(*_, **__):
        pytest.fail("work was done before the input was checked")

    monkeypatch.setattr(CellFM, "encode", refuse)
    monkeypatch.setattr(_integrate, "finetune", refuse)


def telling(adata: AnnData, tiny_vocab) -> CellFM:
    """A model whose embedding tells batches and types: CLS is a random projection of the values, minus the mean."""
    tokens = tokenize(adata.X, np.arange(1, 301, dtype=np.int32), max_genes=300)
    values = sp.csr_matrix((tokens.values, tokens.gene_ids.astype(int), tokens.indptr), (adata.n_obs, 301))
    loadings = np.random.default_rng(0).standard_normal((301, 48))
    loadings[0] = 0
    config = ModelConfig(2, 64, 2, len(tiny_vocab), d_value=16)
    average = np.asarray((values @ loadings).mean(0)).ravel()
    return CellFM(config, tiny_vocab, start_weights(config, loadings, average), name="telling")


def test_batches_mix_and_types_stay(two_batches, tiny_vocab):
    model = telling(two_batches, tiny_vocab)
    cf.tl.embed(two_batches, model)
    cf.tl.integrate(two_batches, model, batch_key="batch", steps=160, train_batch_size=32, masked=0.0)
    found = {}
    for column in ("batch", "label"):
        codes = two_batches.obs[column].cat.codes.to_numpy()
        found[column] = [separability(two_batches.obsm[key], codes) for key in ("X_cellfm", "X_cellfm_integrated")]
    before, after = found["batch"]
    assert before > 0.5
    assert after < 0.8 * before
    assert found["label"][1] > 0.9 * found["label"][0]
    history = two_batches.uns["cellfm"]["X_cellfm_integrated"]["history"]
    assert history["score"].min() < history["score"].iloc[0]


def test_writes_what_it_says_the_same_for_the_same_seed(tiny_adata, model, tmp_path):
    before = {name: array.copy() for name, array in model.weights.items()}
    assert cf.tl.integrate(tiny_adata, model, **QUICK, save_model=tmp_path / "model", umap=True) is None
    found = tiny_adata.obsm["X_cellfm_integrated"]
    assert found.dtype == np.float32
    assert found.shape == (tiny_adata.n_obs, 16)
    assert tiny_adata.obsm["X_cellfm_umap"].shape == tiny_adata.obsm["X_cellfm_integrated_umap"].shape == (40, 2)
    record = tiny_adata.uns["cellfm"]["X_cellfm_integrated"]
    assert record["method"] == "lora"
    assert record["batch_key"] == "batch"
    assert record["start_weights_sha256"] == model.weights_hash != record["weights_sha256"]
    assert list(record["history"]["step"]) == [0, 1, 2]
    assert record["best_step"] == record["history"]["step"][record["history"]["score"].argmin()]
    for name, array in before.items():
        np.testing.assert_array_equal(array, model.weights[name])

    tiny_adata.write_h5ad(tmp_path / "cells.h5ad")
    read = ad.read_h5ad(tmp_path / "cells.h5ad").uns["cellfm"]["X_cellfm_integrated"]
    pd.testing.assert_frame_equal(read["history"], record["history"], check_index_type=False)
    kept = cf.load_model(tmp_path / "model")
    assert kept.weights_hash == record["weights_sha256"]
    cf.tl.embed(tiny_adata, kept)
    np.testing.assert_allclose(tiny_adata.obsm["X_cellfm"], found, atol=1e-5)

    again = cf.tl.integrate(tiny_adata, model, **QUICK, copy=True)
    np.testing.assert_array_equal(again.obsm["X_cellfm_integrated"], found)


@pytest.mark.filterwarnings("ignore:No training step")  # two steps need not
def test_a_copy_of_one_modality_with_an_empty_cell(tiny_adata, model):
    emptied(tiny_adata, 3)
    with without_pulling():
        data = md.MuData({"rna": tiny_adata.copy()})
    with pytest.warns(DataWarning, match="1 of 40 cells expresses no gene"):
        result = cf.tl.integrate(data, model, **QUICK, masked=0.0, elastic=1.0, key_added="X_new", copy=True)
    assert "X_new" not in data["rna"].obsm
    missing = np.isnan(result["rna"].obsm["X_new"]).all(1)
    assert list(np.flatnonzero(missing)) == [3]
    assert result["rna"].uns["cellfm"]["X_new"]["n_empty_cells"] == 1


def test_a_warning_comes_before_the_work(tiny_adata, model, monkeypatch):
    emptied(tiny_adata, 3)
    monkeypatch.setattr("cellfm.tl._integrate.integrate_cells", lambda *_: pytest.fail("trained before it warned"))
    with pytest.raises(DataWarning, match="1 of 40 cells expresses no gene"):
        cf.tl.integrate(tiny_adata, model, **QUICK)
    assert not tiny_adata.obsm


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "some"}, "method must be 'lora', 'full' or 'harmony', not 'some'"),
        ({"theta": 1.0}, "theta= is only for method='harmony', not for method='lora'"),
        ({"steps": 0}, "steps must be a whole number of 1 or more, not 0"),
        ({"adversary": -1.0}, "adversary must be a number of 0 or more"),
        ({"adversary": 0.0, "structure": 0.0, "masked": 0.0, "discrepancy": 0.0}, "one of them above 0"),
        ({"mask_ratio": 1.5}, "mask_ratio must be a number from 0 to 1"),
        ({"zero_fraction": -1.0}, "zero_fraction must be a number of 0 or more, not -1"),
        ({"zero_fraction": 1.0}, "needs a model that was trained with zero modelling"),
        ({"layer": "lognorm"}, "No counts found"),
    ],
)
def test_bad_options_are_refused(tiny_adata, model, options, message):
    tiny_adata.layers["lognorm"] = tiny_adata.X.log1p()
    with pytest.raises(InputError, match=message):
        cf.tl.integrate(tiny_adata, model, **QUICK | options)


@pytest.mark.usefixtures("no_work")
def test_batches_that_cannot_be_integrated_are_refused(tiny_adata, model, tmp_path):
    with pytest.raises(MissingKeyError, match="batch_key='donor' is not a column of obs. Columns: label, batch"):
        cf.tl.integrate(tiny_adata, model, batch_key="donor")
    tiny_adata.obs["one"] = "same"
    with pytest.raises(InputError, match="two batches or more, but has one: 'same'"):
        cf.tl.integrate(tiny_adata, model, batch_key="one")
    tiny_adata.obs["single"] = ["first", *["other"] * 20, *["third"] * 19]
    with pytest.raises(InputError, match="1 of 3 batches has fewer than 2 cells.* first"):
        cf.tl.integrate(tiny_adata, model, batch_key="single")
    tiny_adata.obs["missing"] = tiny_adata.obs["batch"].where(np.arange(40) > 1)
    with pytest.raises(InputError, match="is missing for 2 of 40 cells"):
        cf.tl.integrate(tiny_adata, model, batch_key="missing")
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists already"):
        cf.tl.integrate(tiny_adata, model, batch_key="batch", save_model=tmp_path / "there")
    (tmp_path / "there" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not a model folder .*so it is not replaced"):
        cf.tl.integrate(tiny_adata, model, batch_key="batch", save_model=tmp_path / "there", overwrite=True)
    # A batch whose only cells are empty is found out by its counts.
    tiny_adata.obs["empty"] = ["a"] * 38 + ["b"] * 2
    emptied(tiny_adata, 38)
    with pytest.raises(InputError, match="1 of 2 batches has fewer than 2 cells"):
        cf.tl.integrate(tiny_adata, model, batch_key="empty")


def test_cells_are_chosen_and_held_out_evenly():
    groups = np.repeat([0, 1, 2], [600, 300, 6])
    chosen = choose_cells(groups, 90)
    assert len(chosen) == 90
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_allclose(np.bincount(groups[chosen]), [60, 30, 1], atol=1)
    np.testing.assert_array_equal(choose_cells(groups, 2000), np.arange(906))
    held_out = hold_out(groups)
    np.testing.assert_allclose(np.bincount(groups[held_out]), [90, 45, 1])
    assert hold_out(np.array([0, 0, 1, 1])).sum() == 2
