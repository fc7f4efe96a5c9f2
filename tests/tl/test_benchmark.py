"""`cf.tl.benchmark`: good embeddings score high and bad ones low, on the same cells, beside principal components."""

import sys
import types

import numpy as np
import pandas as pd
import pytest

import cellfm as cf
from cellfm.errors import InputError, MissingKeyError
from cellfm.tasks.integration._scores import Cells, score_embeddings
from cellfm.tl import _benchmark

KEYS = {"batch_key": "batch", "label_key": "label"}
N = 40  # the size of `tiny_adata`, so that metrics are compiled for one size
LABELS, BATCHES = (np.arange(N) % 2).astype(str), (np.arange(N) // 2 % 2).astype(str)


@pytest.fixture(scope="module")
def spots() -> dict[str, np.ndarray]:
    """Types apart and batches mixed; batches apart and types mixed; both apart."""
    noise = np.random.default_rng(0).standard_normal((3, N, 16)).astype(np.float32)
    by_type, by_batch = (10 * np.eye(16, dtype=np.float32)[codes.astype(int)] for codes in (LABELS, BATCHES))
    return {"types": noise[0] + by_type, "batches": noise[1] + by_batch, "both": noise[2] + by_type - 2 * by_batch}


@pytest.fixture
def rows(monkeypatch) -> list[tuple[dict[str, np.ndarray], Cells]]:
    """What is handed over to be judged, in place of judging it."""
    seen = []

    def score(embeddings, cells, unintegrated, *, profile):
        assert all(len(embedding) == len(cells.batches) == len(unintegrated) for embedding in embeddings.values())
        seen.append((embeddings, cells))
        return pd.DataFrame(index=list(embeddings))

    monkeypatch.setattr(_benchmark, "score_embeddings", score)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["fast", "full"])
def test_scores_tell_good_from_bad(spots, profile):
    scores = score_embeddings(spots, Cells(BATCHES, LABELS), spots["both"], profile=profile)
    assert ((scores > -0.2) & (scores <= 1)).all(axis=None)
    assert scores.loc["types", "AvgBio"] > 0.9 > 0.5 > scores.loc["batches", "AvgBio"]
    assert scores.loc["types", "Batch correction"] > scores.loc["both", "Batch correction"]
    assert scores["Total"].idxmax() == "types"
    averaged = scores[["Leiden NMI", "Leiden ARI", "Silhouette label"]].mean(axis=1)
    pd.testing.assert_series_equal(scores["AvgBio"], averaged, check_names=False)
    total = 0.6 * scores["Bio conservation"] + 0.4 * scores["Batch correction"]
    pd.testing.assert_series_equal(scores["Total"], total, check_names=False)


@pytest.mark.slow
def test_takes_the_embeddings_that_are_there(tiny_adata, tiny_model, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "harmonypy", None)
    with pytest.raises(MissingKeyError, match="Call cf.tl.embed or"):
        cf.tl.benchmark(tiny_adata, **KEYS)
    cf.tl.embed(tiny_adata, tiny_model)
    keys = set(tiny_adata.obsm)
    capfd.readouterr()
    found = cf.tl.benchmark(tiny_adata, **KEYS)
    assert capfd.readouterr() == ("", "")
    assert list(found.index) == ["X_pca", "X_cellfm"]
    assert found.attrs["n_cells"] == 40
    assert set(tiny_adata.obsm) == keys
    pd.testing.assert_frame_equal(cf.tl.benchmark(tiny_adata, **KEYS), found)  # the same every time


def test_components_that_are_there_are_taken(tiny_adata, rows):
    tiny_adata.obsm["X_pca"] = tiny_adata.obsm["X_cellfm"] = np.ones((40, 3), np.float32)
    cf.tl.benchmark(tiny_adata, **KEYS)
    assert (rows[0][0]["X_pca"] == 1).all()


def test_harmony_is_a_row_where_it_is_installed(tiny_adata, monkeypatch, rows):
    def run_harmony(components, table, key, **_):
        assert list(table[key]) == list(tiny_adata.obs["batch"])
        return types.SimpleNamespace(Z_corr=components.T + 1)

    monkeypatch.setitem(sys.modules, "harmonypy", types.SimpleNamespace(run_harmony=run_harmony))
    tiny_adata.obsm["X_cellfm"] = np.ones((40, 3), np.float32)
    assert list(cf.tl.benchmark(tiny_adata, **KEYS).index) == ["X_pca", "X_cellfm", "Harmony"]
    embeddings, _ = rows[0]
    np.testing.assert_array_equal(embeddings["Harmony"], embeddings["X_pca"] + 1)


def test_a_sample_keeps_the_shares_of_batches_and_labels(tiny_adata, rows):
    tiny_adata.obsm["X_cellfm"] = np.arange(40, dtype=np.float32)[:, None]
    assert cf.tl.benchmark(tiny_adata, **KEYS, max_cells=24).attrs["n_cells"] == 24
    embeddings, cells = rows[0]
    pairs, counts = np.unique(np.stack((cells.batches, cells.labels)), axis=1, return_counts=True)
    assert pairs.shape == (2, 4)
    assert (counts == 6).all()
    names = tiny_adata.obs["label"].iloc[embeddings["X_cellfm"].ravel().astype(int)]
    assert list(names) == list(cells.labels)


def test_what_cannot_be_judged_is_refused(tiny_adata, tiny_model):
    cf.tl.embed(tiny_adata, tiny_model)
    tiny_adata.obsm["bad"] = tiny_adata.obsm["X_cellfm"].copy()
    tiny_adata.obsm["bad"][[3, 5]] = np.nan
    with pytest.raises(InputError, match=r"obsm\['bad'\] is not finite for 2 of 40 cells"):
        cf.tl.benchmark(tiny_adata, **KEYS, embeddings=["bad"])
    with pytest.raises(InputError, match="max_cells must be a whole number of 1 or more, or None, not 0"):
        cf.tl.benchmark(tiny_adata, **KEYS, max_cells=0)
    tiny_adata.obsm["cube"] = np.zeros((40, 2, 2))
    with pytest.raises(InputError, match=r"obsm\['cube'\] must be a table of numbers, cells x dimensions"):
        cf.tl.benchmark(tiny_adata, **KEYS, embeddings=["cube"])
    del tiny_adata.obsm["cube"]
    with pytest.raises(MissingKeyError, match=r"No obsm\['X_other'\]; available: X_cellfm, bad"):
        cf.tl.benchmark(tiny_adata, **KEYS, embeddings=["X_other"])
    with pytest.raises(MissingKeyError, match="label_key='type' is not a column"):
        cf.tl.benchmark(tiny_adata, batch_key="batch", label_key="type")
    tiny_adata.obs["one"] = "same"
    with pytest.raises(InputError, match="two batches or more"):
        cf.tl.benchmark(tiny_adata, batch_key="one", label_key="label")
    with pytest.raises(InputError, match="profile must be 'fast' or 'full'"):
        cf.tl.benchmark(tiny_adata, **KEYS, profile="slow")
    tiny_adata.X = tiny_adata.X * 0.3
    with pytest.raises(InputError, match="No counts found"):
        cf.tl.benchmark(tiny_adata, **KEYS)
