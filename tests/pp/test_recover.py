"""Counts come back exactly from log-normalised values, and nothing else is taken for counts."""

import math
import re
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData

import cellfm as cf
from cellfm.cells.mudata import without_pulling
from cellfm.cells.recover import Transform, recover, stored_precision
from cellfm.errors import DataWarning, InputError, MissingKeyError

N_CELLS, N_GENES = 50, 300


@pytest.fixture
def counts() -> np.ndarray:
    generator = np.random.default_rng(0)
    mean = generator.gamma(0.4, 4.0, N_GENES) * generator.uniform(0.5, 2.0, (N_CELLS, 1))
    return generator.poisson(mean).astype(np.float32)


def normalised(counts: np.ndarray, target_sum: float | None = 1e4, base: float | None = None) -> AnnData:
    adata = AnnData(sp.csr_matrix(counts))
    sc.pp.normalize_total(adata, target_sum=target_sum)
    sc.pp.log1p(adata, base=base)
    return adata


def recovered(adata: AnnData, **options: object) -> np.ndarray:
    assert cf.pp.recover_counts(adata, **options) is None  # type: ignore[arg-type]
    return adata.layers["counts"].toarray()


@pytest.mark.parametrize("target_sum", [1.0, 1e3, 1e4, 1e6, None])
@pytest.mark.parametrize("base", [None, 2, 10])
def test_scanpys_normalisation_is_undone_exactly(counts: np.ndarray, target_sum: float | None, base: float | None):
    adata = normalised(counts, target_sum, base)
    np.testing.assert_array_equal(recovered(adata), counts)
    assert adata.layers["counts"].dtype == np.float32
    assert isinstance(adata.layers["counts"], sp.csr_matrix)
    assert not adata.obs.columns.size


@pytest.mark.parametrize("base", [math.e, 2, 10, 3, 1.7, 20.5])
@pytest.mark.parametrize("pseudocount", [1, 0.1, 0.5, 2, 1e-3, 30])
@pytest.mark.parametrize("target_sum", [1e4, 1e6, None])
def test_any_base_and_pseudocount_are_undone(counts: np.ndarray, base: float, pseudocount: float, target_sum: float):
    scaled = counts if target_sum is None else counts / counts.sum(1, keepdims=True) * target_sum
    values = (np.log(scaled + pseudocount) / math.log(base)).astype(np.float64)
    np.testing.assert_array_equal(recovered(AnnData(values)), counts)
    if pseudocount == 1:
        np.testing.assert_array_equal(recovered(AnnData(sp.csr_matrix(values.astype(np.float32)))), counts)


def test_size_factors_of_each_cell_are_undone(counts: np.ndarray):
    factors = np.random.default_rng(3).lognormal(0, 0.7, (N_CELLS, 1))
    for values in (np.log2(counts / factors + 1), np.log1p(counts / factors), counts / factors):
        np.testing.assert_array_equal(recovered(AnnData(values.astype(np.float32))), counts)


def test_what_was_undone_is_said(counts: np.ndarray, caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO", logger="cellfm"):
        recovered(AnnData(np.log2(counts / counts.sum(1, keepdims=True) * 1e6 + 0.5)))
    assert "undoing logarithms to base 2 of values plus 0.5" in caplog.text


@pytest.mark.parametrize("decimals", [3, 4, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounded_values_do(counts: np.ndarray, decimals: int, dtype: type):
    adata = normalised(counts)
    adata.X = adata.X.astype(dtype)
    adata.X.data = adata.X.data.round(decimals)
    np.testing.assert_array_equal(recovered(adata), counts)


def test_values_without_a_logarithm_do(counts: np.ndarray):
    adata = AnnData(sp.csr_matrix(counts))
    sc.pp.normalize_total(adata, target_sum=1e6)
    np.testing.assert_array_equal(recovered(adata), counts)


@pytest.mark.parametrize("target_sum", [1e4, 1e6, None])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_logarithm_that_was_undone_does(counts: np.ndarray, target_sum: float | None, dtype: type):
    """Floats of logarithms lose more digits than those of the values themselves."""
    generator = np.random.default_rng(1)
    counts[::2] = generator.poisson(generator.gamma(0.3, 60.0, counts[::2].shape))  # deep cells
    for base, power in ((None, np.expm1), (2, lambda x: np.exp2(x) - 1), (10, lambda x: 10**x - 1)):
        adata = normalised(counts, target_sum, base)
        adata.X = power(adata.X.astype(np.float32).toarray()).astype(dtype)
        np.testing.assert_array_equal(recovered(adata), counts)


def test_what_was_rounded_before_the_logarithm_is_refused(counts: np.ndarray):
    depth = np.random.default_rng(0).poisson(counts * 8)
    cp10k = depth / depth.sum(1, keepdims=True) * 1e4
    for decimals, words in ((0, "log1p of values that add up to about 10,000 .*"), (1, "")):
        values = np.log1p(cp10k.round(decimals)).astype(np.float32)
        with pytest.raises(InputError, match=f"{words}[Cc]ounts cannot be recovered"):
            cf.pp.recover_counts(AnnData(values))


@pytest.mark.parametrize("stored", [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_storage_does_not_matter(counts: np.ndarray, stored: type, dtype: type):
    values = stored(normalised(counts).X.toarray().astype(dtype))
    np.testing.assert_array_equal(recovered(AnnData(values)), counts)


def test_half_precision_does_for_small_counts(counts: np.ndarray):
    counts = np.minimum(counts, 12)
    np.testing.assert_array_equal(recovered(AnnData(normalised(counts).X.toarray().astype(np.float16))), counts)


def test_data_on_disk_do(counts: np.ndarray, tmp_path: Path):
    normalised(counts).write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    np.testing.assert_array_equal(recovered(backed), counts)
    with pytest.raises(InputError, match="to_memory"):
        cf.pp.recover_counts(backed, copy=True)
    backed.file.close()


@pytest.mark.parametrize("smallest", [2, 3, 4, 5])
def test_the_smallest_value_may_be_several_counts(counts: np.ndarray, smallest: int):
    counts[counts < smallest] = 0
    counts[:, 0], counts[:, 1] = smallest, smallest + 1
    np.testing.assert_array_equal(recovered(normalised(counts)), counts)


def test_a_subset_of_genes_does(counts: np.ndarray):
    """The depth of the cell is not needed: only the unit of each cell is."""
    subset = normalised(counts)[:, ::3].copy()
    np.testing.assert_array_equal(recovered(subset), counts[:, ::3])


@pytest.mark.filterwarnings("ignore:Some cells have zero counts:UserWarning")
def test_cells_that_tell_nothing_are_believed_among_others_that_do(counts: np.ndarray):
    counts[0] = 0
    counts[1] = counts[1] > 0  # all values of this cell are the same
    np.testing.assert_array_equal(recovered(normalised(counts)), counts)
    with pytest.raises(InputError, match="too few or stored too imprecisely"):
        cf.pp.recover_counts(normalised(counts[:2]))


def test_a_unit_is_what_one_count_became(counts: np.ndarray):
    values = normalised(counts).X
    result = recover(values, Transform(1.0), stored_precision(values.data))
    np.testing.assert_allclose(result.unit, 1e4 / counts.sum(axis=1), rtol=1e-4)
    assert result.n_loose == 0


def test_the_cells_that_scanpy_ships():
    """Real cells, log-normalised and rounded to three decimals."""
    adata = sc.datasets.pbmc68k_reduced()
    cf.pp.recover_counts(adata, layer="raw")
    counts, values = adata.layers["counts"], adata.raw.X.copy()
    values.sort_indices()
    assert counts.nnz == values.nnz
    assert (counts.data >= 1).all()
    unit = 1e4 / adata.obs["n_counts"].to_numpy()
    per_value = np.repeat(unit, np.diff(values.indptr))
    np.testing.assert_allclose(np.log1p(counts.data * per_value), values.data, atol=1e-3)
    found = recover(values, Transform(1.0), stored_precision(values.data))
    assert found.fits.all()
    np.testing.assert_allclose(found.unit, unit, rtol=1e-3)


def test_raw_with_other_genes_is_refused(counts: np.ndarray):
    adata = normalised(counts)
    adata.raw = adata
    subset = adata[:, :100].copy()
    with pytest.raises(InputError, match=r"300 genes that are not those of adata \(100\).*raw.to_adata\(\)"):
        cf.pp.recover_counts(subset, layer="raw")
    np.testing.assert_array_equal(recovered(subset.raw.to_adata()), counts)


def gamma(counts: np.ndarray) -> np.ndarray:
    return np.random.default_rng(1).gamma(1.0, 1.0, counts.shape)


def by_gene(counts: np.ndarray) -> np.ndarray:
    return normalised(counts).X.toarray() * np.random.default_rng(1).uniform(0.5, 2, N_GENES)


def by_length(counts: np.ndarray) -> np.ndarray:
    rate = counts / np.random.default_rng(1).uniform(0.5, 5, N_GENES)
    return np.log1p(rate / rate.sum(axis=1, keepdims=True) * 1e6)


def rounded_rate(counts: np.ndarray) -> np.ndarray:
    """TPM with two decimals: multiples of 0.01, but no counts."""
    rate = np.expm1(by_length(counts)) / 500
    rate[:, 0] = 0.01
    return np.log2(rate.round(2) + 1)


def smoothed(counts: np.ndarray) -> np.ndarray:
    values = normalised(counts).X.toarray()
    return (values + np.roll(values, 1, axis=0)) / 2


@pytest.mark.parametrize("make", [gamma, by_gene, by_length, rounded_rate, smoothed])
@pytest.mark.parametrize("decimals", [None, 3])
@pytest.mark.parametrize("errors", ["raise", "flag"])
def test_other_values_are_refused(counts: np.ndarray, make: type, decimals: int | None, errors: str):
    values = make(counts).astype(np.float32)
    adata = AnnData(values if decimals is None else values.round(decimals))
    with pytest.raises(InputError, match="Counts cannot be recovered|too few or stored too imprecisely"):
        cf.pp.recover_counts(adata, errors=errors)
    assert not adata.layers


@pytest.mark.parametrize("spoil", [lambda x: x + 1, lambda x: np.minimum(x, 1)])
def test_whole_numbers_that_are_no_counts_are_not_called_counts(counts: np.ndarray, spoil: type):
    with pytest.raises(InputError, match="whole numbers already, from which no others can be recovered") as caught:
        cf.pp.recover_counts(AnnData(np.asarray(spoil(counts), np.float32)))
    assert "use them" not in str(caught.value)


def test_the_advice_for_square_roots_works_as_written(counts: np.ndarray):
    adata = AnnData(sp.csr_matrix(np.sqrt(counts).astype(np.float32)))
    message = " ".join(cf.pp.check(adata).problems)
    line = re.search(r"Square them: (adata\.layers\[.*?\.round\(\)), and", message)
    assert line, message
    exec(line[1], {"adata": adata})
    np.testing.assert_array_equal(adata.layers["counts"], counts)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x - x.mean(0), r"50 of 50 cells have negative values like .*, as after centring"),
        (lambda x: np.where(np.arange(N_CELLS)[:, None] < 3, np.nan, x), r"3 of 50 cells have .*\(nan\)"),
        (lambda x: np.where(np.arange(N_CELLS)[:, None] < 2, np.inf, x), r"2 of 50 cells have .*\(inf\)"),
        (lambda x: x * 0, "nothing but zeros"),
        (lambda x: np.rint(x * 10), "whole numbers already"),
    ],
)
@pytest.mark.parametrize("errors", ["raise", "flag"])
def test_what_was_never_log_normalised_is_named(counts: np.ndarray, spoil: type, message: str, errors: str):
    adata = AnnData(np.asarray(spoil(normalised(counts).X.toarray()), np.float32))
    with pytest.raises(InputError, match=message):
        cf.pp.recover_counts(adata, errors=errors)
    assert not adata.layers


def test_a_few_bad_cells_are_counted_and_may_be_flagged(counts: np.ndarray):
    adata = normalised(counts)
    values = adata.X.toarray()
    values[[4, 9, 20]] = smoothed(counts)[[4, 9, 20]]
    adata.X = sp.csr_matrix(values)
    with pytest.raises(InputError, match=r"in 3 of 50 cells \(the first is '4'\).*errors='flag'"):
        cf.pp.recover_counts(adata)
    assert not adata.layers
    with pytest.warns(DataWarning, match="counts of 3 of 50 cells could not"):
        found = recovered(adata, errors="flag")
    assert np.flatnonzero(~adata.obs["cellfm_counts_recovered"]).tolist() == [4, 9, 20]
    good = adata.obs["cellfm_counts_recovered"].to_numpy()
    np.testing.assert_array_equal(found[good], counts[good])
    np.testing.assert_array_equal(found, np.rint(found))


def test_flags_are_all_true_for_good_cells(counts: np.ndarray):
    adata = normalised(counts)
    np.testing.assert_array_equal(recovered(adata, errors="flag"), counts)
    assert adata.obs["cellfm_counts_recovered"].all()
    assert adata.obs["cellfm_counts_recovered"].dtype == bool


def test_digits_that_are_lost_are_reported(counts: np.ndarray):
    counts[:, 0] = 50_000
    adata = normalised(counts)
    adata.X.data = adata.X.data.round(3)
    with pytest.warns(DataWarning, match=r"50 of [\d,]+ values of adata.X are stored too imprecisely"):
        found = recovered(adata)
    np.testing.assert_array_equal(found[:, 1:], counts[:, 1:])


def test_names_and_copies(counts: np.ndarray):
    adata = normalised(counts)
    adata.layers["log"] = adata.X
    adata.X = None
    result = cf.pp.recover_counts(adata, layer="log", key_added="raw_counts", copy=True)
    np.testing.assert_array_equal(result.layers["raw_counts"].toarray(), counts)
    assert list(adata.layers) == ["log"]
    with pytest.raises(MissingKeyError, match="available: 'log'"):
        cf.pp.recover_counts(adata, layer="lgo")
    with pytest.raises(InputError, match="'raise' or 'flag'"):
        cf.pp.recover_counts(adata, layer="log", errors="ignore")


def test_a_modality_does(counts: np.ndarray):
    protein = AnnData(np.ones((N_CELLS, 1), np.float32), var=pd.DataFrame(index=["P1"]))
    with without_pulling():
        mdata = mudata.MuData({"cells": normalised(counts), "protein": protein})
    cf.pp.recover_counts(mdata, modality="cells")
    np.testing.assert_array_equal(mdata.mod["cells"].layers["counts"].toarray(), counts)


def test_no_warnings_on_the_way(counts: np.ndarray):
    cf.pp.recover_counts(normalised(counts, base=10))
