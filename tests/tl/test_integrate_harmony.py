"""`cf.tl.integrate(method="harmony")`: batches mix, types stay apart, and nothing that trains is accepted."""

import sys

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import cellfm as cf
from cellfm.cells.mudata import without_pulling
from cellfm.errors import DataWarning, InputError, MissingPackageError
from cellfm.model import CellFM
from cellfm.model import _embed as embed_module
from cellfm.tasks.integration._harmony import harmonize
from cellfm.tl import _integrate as integrate_module
from cellfm.train._integrate_criterion import separability

HARMONY = {"batch_key": "batch", "method": "harmony"}
KEY = "X_cellfm_integrated"
needs_harmonypy = pytest.mark.usefixtures("harmonypy")


@pytest.fixture(scope="module")
def harmonypy():
    return pytest.importorskip("harmonypy", reason="needs harmonypy: pip install 'cellfm[harmony]'")


@pytest.fixture(scope="module")
def shifted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings, (300, 8), batches and types: two types far apart, and batches a little less far apart."""
    generator = np.random.default_rng(0)
    label, batch = np.arange(300) % 2, np.arange(300) // 150
    embedding = generator.standard_normal((300, 8)) + 8 * np.eye(8)[label] + 4 * np.eye(8)[2 + batch]
    return embedding.astype(np.float32), batch.astype(str), label


@pytest.fixture
def in_place_of_the_model(monkeypatch, shifted, tiny_vocab) -> AnnData:
    """Cells whose embedding is that of `shifted`, whatever the model."""
    counts = sp.csr_matrix(np.random.default_rng(1).poisson(1.0, (300, 300)).astype(np.float32))
    obs = pd.DataFrame({"batch": pd.Categorical(shifted[1])}, [f"cell{i}" for i in range(300)])
    monkeypatch.setattr(integrate_module, "stored_or_new_embedding", lambda *_, **__: shifted[0])
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=list(tiny_vocab.symbols)))


@needs_harmonypy
def test_batches_mix_and_types_stay(in_place_of_the_model, shifted, tiny_model):
    embedding, batch, label = shifted
    cf.tl.integrate(in_place_of_the_model, tiny_model, **HARMONY)
    found = in_place_of_the_model.obsm[KEY]
    codes = (batch == "1").astype(np.int32)
    assert separability(embedding, codes) > 0.9
    assert separability(found, codes) < 0.2
    assert separability(found, label) > 0.9
    centre = np.stack([found[label == one].mean(0) for one in (0, 1)])
    assert np.linalg.norm(centre[0] - centre[1]) > 8  # types are as far apart as before: 8 times the root of 2


@needs_harmonypy
def test_is_what_harmonypy_makes_of_the_embedding(in_place_of_the_model, shifted, harmonypy, tiny_model):
    cf.tl.integrate(in_place_of_the_model, tiny_model, **HARMONY, theta=1.0, random_state=5)
    of_library = harmonypy.run_harmony(
        shifted[0], pd.DataFrame({"b": shifted[1]}), "b", theta=1.0, random_state=5, verbose=False
    ).Z_corr
    np.testing.assert_allclose(in_place_of_the_model.obsm[KEY], of_library, atol=1e-5)


@needs_harmonypy
def test_the_seed_decides_and_few_or_square_data_pass(shifted):
    embedding, batch, _ = shifted
    found = harmonize(embedding, batch, random_state=1)
    np.testing.assert_array_equal(harmonize(embedding, batch, random_state=1), found)
    assert (harmonize(embedding, batch, random_state=2) != found).any()
    assert (harmonize(embedding, batch, random_state=1, theta=0.0) != found).any()
    few = np.r_[:4, 296:300]  # as many cells as dimensions, and fewer than Harmony has clusters for
    moved = harmonize(embedding[few], batch[few])
    assert moved.shape == (8, 8)
    gap = np.abs(moved[:4].mean(0) - moved[4:].mean(0)).max()
    assert gap < 0.5 * np.abs(embedding[few][:4].mean(0) - embedding[few][4:].mean(0)).max()


@needs_harmonypy
def test_writes_embedding_record_and_umaps(tiny_adata, tiny_model, tmp_path, monkeypatch):
    cf.tl.embed(tiny_adata, tiny_model)
    before = tiny_adata.obsm["X_cellfm"].copy()
    with monkeypatch.context() as patch:  # what cf.tl.embed wrote is taken
        patch.setattr(embed_module, "embed_cells", lambda *_, **__: pytest.fail("the cells were embedded again"))
        assert cf.tl.integrate(tiny_adata, tiny_model, **HARMONY, umap=True) is None
    found = tiny_adata.obsm[KEY]
    assert found.dtype == np.float32
    assert found.shape == before.shape
    np.testing.assert_array_equal(tiny_adata.obsm["X_cellfm"], before)
    assert tiny_adata.obsm["X_cellfm_umap"].shape == tiny_adata.obsm[f"{KEY}_umap"].shape == (40, 2)
    tiny_adata.write_h5ad(tmp_path / "cells.h5ad")
    record = ad.read_h5ad(tmp_path / "cells.h5ad").uns["cellfm"][KEY]
    assert record["method"] == "harmony"
    assert record["batch_key"] == "batch"
    assert record["theta"] == 2
    assert record["n_empty_cells"] == 0
    assert record["weights_sha256"] == record["start_weights_sha256"] == tiny_model.weights_hash
    assert "history" not in record

    again = tiny_adata.copy()
    del again.obsm["X_cellfm"]
    cf.tl.integrate(again, tiny_model, **HARMONY)
    np.testing.assert_array_equal(again.obsm[KEY], found)
    assert "X_cellfm" not in again.obsm


@needs_harmonypy
def test_a_copy_of_one_modality_with_an_empty_cell(tiny_adata, tiny_model):
    tiny_adata.X = sp.csr_matrix(tiny_adata.X.multiply((np.arange(40) != 3)[:, None]))
    with without_pulling():
        data = md.MuData({"rna": tiny_adata.copy()})
    with pytest.warns(DataWarning, match="1 of 40 cells expresses no gene"):
        result = cf.tl.integrate(data, tiny_model, **HARMONY, key_added="X_new", copy=True)
    assert "X_new" not in data["rna"].obsm
    assert list(np.flatnonzero(np.isnan(result["rna"].obsm["X_new"]).all(1))) == [3]
    assert np.isnan(result["rna"].obsm["X_new"]).any(1).sum() == 1
    assert result["rna"].uns["cellfm"]["X_new"]["n_empty_cells"] == 1


@pytest.fixture
def no_work(monkeypatch):
    """Fail if anything is computed."""
    monkeypatch.setattr(CellFM, "encode", lambda *_, **__: pytest.fail("work was done before the input was checked"))


@pytest.mark.usefixtures("harmonypy", "no_work")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 10}, "method='harmony' trains nothing and does not use steps=: leave out"),
        ({"adversary": 0.0, "structure": 1.0}, "does not use adversary=, structure=:"),
        ({"lora_layers": None, "train_batch_size": 8}, "does not use lora_layers=, train_batch_size=:"),
        ({"save_model": "folder", "overwrite": True}, "does not use save_model=, overwrite=:"),
        ({"backend": "jax"}, "does not use backend=:"),
        ({"theta": -1.0}, "theta must be a number of 0 or more, not -1"),
        ({"batch_key": "one"}, "two batches or more, but has one: 'same'"),
    ],
)
def test_bad_options_are_refused(tiny_adata, tiny_model, options, message):
    tiny_adata.obs["one"] = "same"
    with pytest.raises(InputError, match=message):
        cf.tl.integrate(tiny_adata, tiny_model, **HARMONY | options)
    assert not list(tiny_adata.obsm)


@pytest.mark.usefixtures("no_work")
def test_without_harmonypy_the_extra_is_named(tiny_adata, tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "harmonypy", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'cellfm\[harmony\]', or use method='lora'"):
        cf.tl.integrate(tiny_adata, tiny_model, **HARMONY)
