"""`cf.tl.embed`: what may not change an embedding, and what is refused before any work."""

import anndata as ad
import dask.array as da
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import cellfm as cf
from cellfm.cells import matrix as _adata
from cellfm.cells.mudata import without_pulling
from cellfm.config import ModelConfig
from cellfm.errors import DataWarning, InputError, MissingKeyError
from cellfm.model import CellFM

SAME = {"atol": 1e-5, "rtol": 0}


def embedding(adata, model, **kwargs) -> np.ndarray:
    cf.tl.embed(adata, model, **kwargs)
    return adata.obsm["X_cellfm"]


@pytest.fixture
def expected(tiny_adata, tiny_model):
    return embedding(tiny_adata.copy(), tiny_model)


def test_writes_what_it_says(tiny_adata, tiny_model):
    assert cf.tl.embed(tiny_adata, tiny_model) is None
    found = tiny_adata.obsm["X_cellfm"]
    assert found.dtype == np.float32
    assert found.shape == (tiny_adata.n_obs, tiny_model.config.d_model)
    record = tiny_adata.uns["cellfm"]["X_cellfm"]
    assert record["model"] == "tiny"
    assert record["vocabulary_sha256"] == tiny_model.vocab.hash
    assert record["n_genes_matched"] == 300


def test_cells_of_a_kind_are_alike(tiny_adata, expected):
    label = (tiny_adata.obs["label"] == "A").to_numpy()
    centred = expected - expected.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    similarity = unit @ unit.T
    same = label[:, None] == label[None]
    assert similarity[same & ~np.eye(len(label), dtype=bool)].mean() > similarity[~same].mean() + 0.1


def test_copy_leaves_the_original_alone(tiny_adata, tiny_model, expected):
    result = cf.tl.embed(tiny_adata, tiny_model, copy=True)
    assert "X_cellfm" not in tiny_adata.obsm
    assert "cellfm" not in tiny_adata.uns
    np.testing.assert_array_equal(result.obsm["X_cellfm"], expected)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_size_changes_nothing(tiny_adata, tiny_model, expected, batch_size):
    np.testing.assert_allclose(embedding(tiny_adata, tiny_model, batch_size=batch_size), expected, **SAME)


def test_reading_in_blocks_changes_nothing(tiny_adata, tiny_model, expected, monkeypatch):
    monkeypatch.setattr(_adata.Matrix.blocks, "__defaults__", (7,))
    np.testing.assert_allclose(embedding(tiny_adata, tiny_model), expected, **SAME)


def test_order_of_cells_and_genes_does_not_matter(tiny_adata, tiny_model, expected):
    generator = np.random.default_rng(0)
    cells, genes = generator.permutation(tiny_adata.n_obs), generator.permutation(tiny_adata.n_vars)
    shuffled = tiny_adata[cells, genes].copy()
    np.testing.assert_allclose(embedding(shuffled, tiny_model), expected[cells], **SAME)


def test_a_cell_does_not_depend_on_the_others(tiny_adata, tiny_model, expected):
    np.testing.assert_allclose(embedding(tiny_adata[5:8].copy(), tiny_model), expected[5:8], **SAME)


def test_genes_outside_the_vocabulary_change_nothing(tiny_adata, tiny_model, expected):
    known = tiny_adata[:, ~tiny_adata.var_names.str.startswith("UNKNOWN")].copy()
    np.testing.assert_allclose(embedding(known, tiny_model), expected, **SAME)


def test_sampling_of_long_cells_depends_on_content_and_seed_only(tiny_adata, tiny_vocab, expected):
    config = ModelConfig(2, 16, 2, len(tiny_vocab), d_value=16, max_genes=100)  # fewer than the cells express
    small = CellFM(config, tiny_vocab, random_state=7)
    first = embedding(tiny_adata.copy(), small)
    assert np.abs(first - expected).max() > 1e-3
    np.testing.assert_allclose(embedding(tiny_adata[::-1].copy(), small)[::-1], first, **SAME)
    assert np.abs(embedding(tiny_adata.copy(), small, random_state=1) - first).max() > 1e-3


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.toarray(),
        lambda x: np.asfortranarray(x.toarray()),
        lambda x: x.tocsc(),
        lambda x: sp.csr_array(x),
        lambda x: x.astype(np.uint8),
        lambda x: x.astype(np.int64),
        lambda x: x.toarray().astype(np.float16),
        lambda x: x.astype(np.float64),
    ],
    ids=["dense", "fortran", "csc", "csr_array", "uint8", "int64", "float16", "float64"],
)
def test_storage_does_not_matter(tiny_adata, tiny_model, expected, convert):
    assert tiny_adata.X.max() < 256
    tiny_adata.X = convert(tiny_adata.X)
    np.testing.assert_allclose(embedding(tiny_adata, tiny_model), expected, **SAME)


@pytest.mark.parametrize("store", ["csr", "csc", "dense"])
def test_backed_equals_in_memory(tiny_adata, tiny_model, expected, tmp_path, store):
    tiny_adata.X = {"csr": tiny_adata.X, "csc": tiny_adata.X.tocsc(), "dense": tiny_adata.X.toarray()}[store]
    tiny_adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    np.testing.assert_allclose(embedding(backed, tiny_model), expected, **SAME)


@pytest.mark.parametrize("convert", [sp.csr_matrix, np.asarray], ids=["csr", "dense"])
def test_dask_equals_in_memory(tiny_adata, tiny_model, expected, convert):
    dense = da.from_array(tiny_adata.X.toarray(), chunks=(15, -1))
    tiny_adata.X = dense.map_blocks(convert, dtype=np.float32, meta=convert(np.zeros((0, 0), np.float32)))
    np.testing.assert_allclose(embedding(tiny_adata, tiny_model), expected, **SAME)


def test_layer_and_raw(tiny_adata, tiny_model, expected):
    tiny_adata.layers["counts"] = tiny_adata.X.copy()
    tiny_adata.raw = tiny_adata.copy()
    tiny_adata.X = np.log1p(tiny_adata.X.toarray())
    np.testing.assert_array_equal(embedding(tiny_adata.copy(), tiny_model, layer="counts"), expected)
    np.testing.assert_array_equal(embedding(tiny_adata.copy(), tiny_model, layer="raw"), expected)


def test_mudata(tiny_adata, tiny_model, expected):
    protein = AnnData(np.ones((tiny_adata.n_obs, 2), np.float32), obs=pd.DataFrame(index=tiny_adata.obs_names))
    with without_pulling():
        data = md.MuData({"rna": tiny_adata, "prot": protein})
    cf.tl.embed(data, tiny_model)
    np.testing.assert_array_equal(data.mod["rna"].obsm["X_cellfm"], expected)
    with pytest.raises(MissingKeyError, match="'atac'.*rna, prot"):
        cf.tl.embed(data, tiny_model, modality="atac")


def test_ensembl_ids_with_version(tiny_adata, tiny_model, tiny_vocab, expected):
    known = tiny_adata[:, :290].copy()
    by_symbol = embedding(known.copy(), tiny_model)
    known.var_names = [f"{ensembl}.7" for ensembl in tiny_vocab.genes["ensembl_id"][:290]]
    np.testing.assert_allclose(embedding(known, tiny_model), by_symbol, **SAME)


@pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
def test_repeated_genes_are_added_up(tiny_adata, tiny_model, expected):
    half = sp.csr_matrix(np.floor(tiny_adata.X.toarray() / 2))
    double = ad.concat([AnnData(half, var=tiny_adata.var), AnnData(tiny_adata.X - half, var=tiny_adata.var)], axis=1)
    with pytest.warns(DataWarning, match="300 genes occur more than once"):
        found = embedding(double, tiny_model)
    np.testing.assert_allclose(found, expected, **SAME)


def test_own_values(tiny_adata, tiny_model, expected):
    counts = tiny_adata.X.toarray()[:, :300]
    adata = tiny_adata[:, :300].copy()
    adata.layers["own"] = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4).astype(np.float32)
    np.testing.assert_allclose(embedding(adata.copy(), tiny_model, values_layer="own"), expected, **SAME)
    adata.layers["sparse"] = sp.csr_matrix(adata.layers["own"])
    np.testing.assert_allclose(embedding(adata.copy(), tiny_model, values_layer="sparse"), expected, **SAME)
    adata.layers["other"] = adata.layers["own"] * 0.5
    assert np.abs(embedding(adata.copy(), tiny_model, values_layer="other") - expected).max() > 1e-3
    for bad in (-1.0, np.nan):
        adata.layers["bad"] = adata.layers["own"].copy()
        adata.layers["bad"][0, 0] = bad
        with pytest.raises(InputError, match="finite and not negative"):
            cf.tl.embed(adata, tiny_model, values_layer="bad")
    adata.raw = adata[:, :200].copy()
    with pytest.raises(InputError, match=r"has shape \(40, 200\), adata.X \(40, 300\): they must be equal"):
        cf.tl.embed(adata, tiny_model, values_layer="raw")


def test_own_values_of_a_gene_that_occurs_twice_are_those_that_most_cells_express(tiny_adata, tiny_model):
    adata = tiny_adata[:, :300].copy()
    adata.layers["own"] = np.log1p(adata.X.toarray())
    once = embedding(adata[:, 1:].copy(), tiny_model, values_layer="own")
    adata.X = np.where((np.arange(300) == 0) & (np.arange(40) > 2)[:, None], 0, adata.X.toarray())
    adata.var_names = ["ENSG00000000001", *adata.var_names[1:]]  # the id of GENE1
    with pytest.warns(DataWarning, match=r"1 gene occurs more than once.*GENE1 \(row 1\) and not ENSG00000000001"):
        np.testing.assert_allclose(embedding(adata, tiny_model, values_layer="own"), once, **SAME)
    adata.X = adata.X[:, [1, 0, *range(2, 300)]]
    adata.layers["own"] = adata.layers["own"][:, [1, 0, *range(2, 300)]]
    with pytest.warns(DataWarning, match=r"ENSG00000000001 \(row 0\) and not GENE1 \(row 1\)"):
        np.testing.assert_allclose(embedding(adata, tiny_model, values_layer="own"), once, **SAME)


def test_the_advice_of_recover_counts_works_as_it_is_written(tiny_adata, tiny_model):
    """Logarithms of TPM, in which a symbol and an id are the same gene."""
    rate = tiny_adata.X.toarray() / np.random.default_rng(0).uniform(0.5, 5, tiny_adata.n_vars)
    adata = AnnData(np.log2(rate / rate.sum(1, keepdims=True) * 1e6 + 1).astype(np.float32), var=tiny_adata.var)
    adata.var_names = ["ENSG00000000001", *adata.var_names[1:]]
    adata.layers["tpm"] = adata.X
    for layer, given in ((None, {"values_layer": "X"}), ("tpm", {"layer": "tpm", "values_layer": "tpm"})):
        with pytest.raises(InputError, match="Counts cannot be recovered") as refused:
            cf.pp.recover_counts(adata, layer=layer)
        assert "pass " + ", ".join(f"{k}={v!r}" for k, v in given.items()) + " to cf.tl.embed" in str(refused.value)
        with pytest.warns(DataWarning, match="1 gene occurs more than once"):
            assert np.isfinite(embedding(adata.copy(), tiny_model, **given)).all()


def test_normalised_data_pass_as_their_own_values(tiny_adata, tiny_model):
    tiny_adata.X = np.log1p(tiny_adata.X.toarray())
    assert np.isfinite(embedding(tiny_adata, tiny_model, values_layer="X")).all()


def test_unknown_genes_are_looked_for_where_they_are(tiny_adata, tiny_model):
    tiny_adata.layers["raw_counts"] = tiny_adata.X.copy()
    tiny_adata.var_names = [f"NONE{i}" for i in range(tiny_adata.n_vars)]
    with pytest.raises(InputError, match=r"genes in adata\.var are known"):
        embedding(tiny_adata, tiny_model, layer="raw_counts")
    tiny_adata.raw = tiny_adata.copy()
    with pytest.raises(InputError, match=r"genes in adata\.raw\.var are known"):
        embedding(tiny_adata, tiny_model, layer="raw")


def test_empty_cells_get_nan_or_stop(tiny_adata, tiny_model, expected):
    tiny_adata.X = sp.diags((np.arange(tiny_adata.n_obs) != 3).astype(np.float32)) @ tiny_adata.X
    with pytest.raises(InputError, match="1 of 40 cells.*cell 3"):
        cf.tl.embed(tiny_adata, tiny_model, empty_cells="error")
    assert "X_cellfm" not in tiny_adata.obsm
    with pytest.warns(DataWarning, match="1 of 40 cells"):
        found = embedding(tiny_adata, tiny_model)
    assert np.isnan(found[3]).all()
    np.testing.assert_allclose(np.delete(found, 3, 0), np.delete(expected, 3, 0), **SAME)


def bad_values(change):
    def apply(adata):
        adata.X = change(adata.X.toarray().astype(np.float32))

    return apply


def with_value(value):
    def change(x):
        x[0, 0] = value
        return x

    return change


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (bad_values(np.log1p), r"values like .* log-normalisation.*recover_counts"),
        (bad_values(lambda x: x - x.mean(0)), "negative values"),
        (bad_values(lambda x: x / x.sum(1, keepdims=True) * 1e4), "fractions like"),
        (bad_values(with_value(np.nan)), "not finite"),
        (bad_values(with_value(np.inf)), "not finite"),
        (bad_values(lambda x: x * 0), "nothing but zeros"),
    ],
    ids=["log1p", "scaled", "normalised", "nan", "inf", "zeros"],
)
def test_values_that_are_no_counts_are_refused(tiny_adata, tiny_model, spoil, message):
    spoil(tiny_adata)
    with pytest.raises(InputError, match=message):
        cf.tl.embed(tiny_adata, tiny_model)
    assert "X_cellfm" not in tiny_adata.obsm
    assert "cellfm" not in tiny_adata.uns


def test_counts_elsewhere_are_pointed_out(tiny_adata, tiny_model):
    tiny_adata.layers["umi"] = tiny_adata.X.copy()
    tiny_adata.X = np.log1p(tiny_adata.X.toarray())
    with pytest.raises(InputError, match="pass layer='umi'"):
        cf.tl.embed(tiny_adata, tiny_model)


def test_what_to_do_with_empty_cells_is_one_of_two(tiny_adata, tiny_model):
    with pytest.raises(InputError, match="empty_cells must be 'nan' or 'error', not 'drop'"):
        cf.tl.embed(tiny_adata, tiny_model, empty_cells="drop")


def test_fractions_beyond_the_sample_of_a_backed_file_are_found(tiny_adata, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(_adata, "_SAMPLE_CELLS", 2)
    x = tiny_adata.X.toarray()
    x[10, 5] = 1.5
    tiny_adata.X = x
    tiny_adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(InputError, match=r"like 1\.5"):
        cf.tl.embed(backed, tiny_model)
    assert "X_cellfm" not in backed.obsm


def test_genes_that_the_model_does_not_know_are_refused(tiny_adata, tiny_model):
    with pytest.raises(InputError, match=r"Only 150 of the 150 genes.*at least 200"):
        cf.tl.embed(tiny_adata[:, :150].copy(), tiny_model)
    few = tiny_adata[:, :150].copy()
    assert np.isfinite(embedding(few, tiny_model, min_known_genes=100)).all()
    mouse = tiny_adata.copy()
    mouse.var_names = mouse.var_names.str.capitalize()
    with pytest.raises(InputError, match="look like mouse genes"):
        cf.tl.embed(mouse, tiny_model)
    numbered = tiny_adata.copy()
    numbered.var_names = [str(i) for i in range(numbered.n_vars)]
    with pytest.raises(InputError, match="pass gene_key="):
        cf.tl.embed(numbered, tiny_model)


def test_few_known_genes_are_warned_of(tiny_adata, tiny_model):
    more = AnnData(sp.hstack([tiny_adata.X, tiny_adata.X]).tocsr())
    more.var_names = [*tiny_adata.var_names, *(f"OTHER{i}" for i in range(tiny_adata.n_vars))]
    with pytest.warns(DataWarning, match="knows 300 of 640 genes"):
        cf.tl.embed(more, tiny_model)


def test_missing_names_list_what_there_is(tiny_adata, tiny_model):
    tiny_adata.layers["umi"] = tiny_adata.X
    with pytest.raises(MissingKeyError, match="'counts'.*'X', 'umi'"):
        cf.tl.embed(tiny_adata, tiny_model, layer="counts")
    tiny_adata.var["feature"] = "x"
    with pytest.raises(MissingKeyError, match="'symbol'.*feature"):
        cf.tl.embed(tiny_adata, tiny_model, gene_key="symbol")
    with pytest.raises(InputError, match="No model 'nano'"):
        cf.tl.embed(tiny_adata, "nano")


def test_no_cells_no_genes_no_table(tiny_adata, tiny_model):
    with pytest.raises(InputError, match="no cells"):
        cf.tl.embed(tiny_adata[:0].copy(), tiny_model)
    with pytest.raises(InputError, match="no genes"):
        cf.tl.embed(tiny_adata[:, :0].copy(), tiny_model)
    with pytest.raises(InputError, match="found DataFrame"):
        cf.tl.embed(tiny_adata.to_df(), tiny_model)


@pytest.mark.filterwarnings("ignore:Observation names are not unique:UserWarning")
def test_repeated_cell_names_are_allowed(tiny_adata, tiny_model, expected):
    tiny_adata.obs_names = ["cell"] * tiny_adata.n_obs
    np.testing.assert_array_equal(embedding(tiny_adata, tiny_model), expected)


def test_two_threads_get_the_right_answers(tiny_adata, tiny_model, expected):
    from concurrent.futures import ThreadPoolExecutor

    copies = [tiny_adata.copy() for _ in range(4)]
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda adata: embedding(adata, tiny_model), copies):
            np.testing.assert_allclose(found, expected, **SAME)
