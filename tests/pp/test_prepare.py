"""Prepared data can go to the model; cells are removed openly, and nothing happens where anything fails."""

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import cellfm as cf
from cellfm.cells.mudata import without_pulling
from cellfm.errors import DataWarning, InputError, MissingKeyError
from cellfm.genes.vocabulary import Vocabulary


@pytest.fixture
def poor(tiny_adata: AnnData) -> AnnData:
    """The small data with cells 3 and 5 short of known genes, and known genes by their Ensembl ids."""
    counts = tiny_adata.X.toarray()
    counts[3] = 0
    counts[5, 190:300] = 0
    names = [f"ENSG{i:011d}.7" if i < 290 else name for i, name in enumerate(tiny_adata.var_names)]
    return AnnData(sp.csr_matrix(counts), obs=tiny_adata.obs, var=pd.DataFrame(index=names))


def test_check_harmonise_and_filter_in_one(poor: AnnData, tiny_vocab: Vocabulary):
    apart = cf.pp.harmonize_genes(poor, model=tiny_vocab, copy=True)
    with pytest.warns(DataWarning, match="2 of 40 cells are removed for expressing fewer than 200 genes"):
        assert cf.pp.prepare(poor, model=tiny_vocab) is None
    assert "cell3" not in poor.obs_names
    assert "cell5" not in poor.obs_names
    kept = apart[poor.obs_names]
    assert poor.shape == (38, 320)
    assert (poor.X != kept.X).nnz == 0
    pd.testing.assert_frame_equal(poor.var.astype(str), kept.var.astype(str))
    pd.testing.assert_frame_equal(poor.obs.astype(str), kept.obs.astype(str))
    assert poor.uns["cellfm"].keys() == kept.uns["cellfm"].keys()
    assert cf.pp.check(poor, model=tiny_vocab).n_few == 0


def test_good_cells_all_stay_without_a_word(tiny_adata: AnnData, tiny_vocab: Vocabulary):
    names = tiny_adata.obs_names.tolist()
    cf.pp.prepare(tiny_adata, model=tiny_vocab)
    assert tiny_adata.obs_names.tolist() == names


def test_zero_keeps_all_cells(poor: AnnData, tiny_vocab: Vocabulary):
    cf.pp.prepare(poor, model=tiny_vocab, min_genes=0)
    assert poor.n_obs == 40


def test_the_layer_decides_which_cells_stay(poor: AnnData, tiny_vocab: Vocabulary):
    poor.layers["counts"] = poor.X.copy()
    poor.X = poor.X.copy()
    poor.X.data = np.log1p(poor.X.data / 3)
    with pytest.raises(InputError, match="layer='counts'"):
        cf.pp.prepare(poor, model=tiny_vocab)
    with pytest.warns(DataWarning, match="2 of 40"):
        cf.pp.prepare(poor, model=tiny_vocab, layer="counts")
    assert poor.layers["counts"].shape == poor.X.shape == (38, 320)


def test_a_copy_leaves_the_data_alone(poor: AnnData, tiny_vocab: Vocabulary):
    names = poor.var_names.tolist()
    with pytest.warns(DataWarning, match="2 of 40"):
        result = cf.pp.prepare(poor, model=tiny_vocab, copy=True)
    assert result.n_obs == 38
    assert poor.n_obs == 40
    assert poor.var_names.tolist() == names
    assert not poor.uns


def negative(adata: AnnData) -> None:
    adata.X[0, 0] = -1


def not_finite(adata: AnnData) -> None:
    adata.X[0, 0] = np.nan


def logs(adata: AnnData) -> None:
    adata.X.data = np.log1p(adata.X.data / 3)


def mouse(adata: AnnData) -> None:
    adata.var_names = [f"Gene{i}" for i in range(adata.n_vars)]


def zeros(adata: AnnData) -> None:
    adata.X = sp.csr_matrix(adata.shape, dtype=np.float32)


def shallow(adata: AnnData) -> None:
    counts = adata.X.toarray()
    counts[:, 150:] = 0
    adata.X = sp.csr_matrix(counts)


@pytest.mark.filterwarnings("ignore:Changing the sparsity structure")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (negative, "negative values"),
        (not_finite, "not finite"),
        (logs, "recover_counts"),
        (mouse, "mouse genes"),
        (zeros, "nothing but zeros"),
        (shallow, r"All 40 cells express fewer than 200 genes.*min_genes="),
    ],
)
def test_bad_data_are_refused_and_left_alone(
    poor: AnnData, tiny_vocab: Vocabulary, spoil: Callable[[AnnData], None], message: str
):
    spoil(poor)
    before = poor.copy()
    with pytest.raises(InputError, match=message):
        cf.pp.prepare(poor, model=tiny_vocab)
    assert poor.shape == before.shape
    assert poor.var.equals(before.var)
    np.testing.assert_array_equal(poor.X.toarray(), before.X.toarray())
    assert not poor.uns


@pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
def test_a_failing_merge_leaves_the_data_alone(tiny_adata: AnnData, tiny_vocab: Vocabulary):
    tiny_adata.var_names = ["GENE0", *tiny_adata.var_names[:-1]]
    tiny_adata.layers["scaled"] = tiny_adata.X.toarray() - 1
    with pytest.raises(InputError, match="'scaled'"):
        cf.pp.prepare(tiny_adata, model=tiny_vocab)
    assert tiny_adata.n_vars == 320
    assert not tiny_adata.uns


def test_a_warning_made_an_error_leaves_the_data_alone(poor: AnnData, tiny_vocab: Vocabulary):
    with pytest.raises(DataWarning):  # the tests make errors of warnings
        cf.pp.prepare(poor, model=tiny_vocab)
    assert poor.n_obs == 40
    assert not poor.uns


def test_wrong_arguments_are_named(poor: AnnData, tiny_vocab: Vocabulary, tmp_path: Path):
    poor.raw = poor.copy()
    with pytest.raises(InputError, match=r"raw.to_adata\(\)"):
        cf.pp.prepare(poor, model=tiny_vocab, layer="raw")
    with pytest.raises(MissingKeyError, match="available: 'X', 'raw'"):
        cf.pp.prepare(poor, model=tiny_vocab, layer="counts")
    poor.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(InputError, match="to_memory"):
        cf.pp.prepare(backed, model=tiny_vocab)
    backed.file.close()
    for shape in ((0, 5), (5, 0)):
        with pytest.raises(InputError, match="contain no"):
            cf.pp.prepare(AnnData(np.zeros(shape, np.float32)), model=tiny_vocab)


def test_cells_leave_a_modality_only(poor: AnnData, tiny_vocab: Vocabulary):
    protein = AnnData(np.ones((40, 1), np.float32), obs=poor.obs[[]], var=pd.DataFrame(index=["P1"]))
    with without_pulling():
        mdata = mudata.MuData({"rna": poor, "protein": protein})
    with pytest.warns(DataWarning, match="2 of 40"):
        cf.pp.prepare(mdata, model=tiny_vocab)
    assert mdata.mod["rna"].n_obs == 38
    assert mdata.mod["protein"].n_obs == 40
    assert mdata.obsm["rna"].sum() == 38


def test_a_panel_keeps_its_cells_or_the_limits_are_told(tiny_adata: AnnData, tiny_vocab: Vocabulary):
    counts = tiny_adata.X.toarray()
    counts[:30, 60:] = 0  # 30 of 40 cells express at most 60 genes
    tiny_adata.X = sp.csr_matrix(counts)
    advice = " ".join(cf.pp.check(tiny_adata, model=tiny_vocab).advice)
    assert "removes them" not in advice
    assert "pass min_genes= with the limit, or 0 to keep all" in advice
    with pytest.raises(InputError, match="30 of 40 cells .* of 300 known genes.* min_genes=7 would remove 0 of them"):
        cf.pp.prepare(tiny_adata, model=tiny_vocab)
    assert tiny_adata.shape == (40, 320)
    assert "cellfm" not in tiny_adata.uns
    cf.pp.prepare(tiny_adata, model=tiny_vocab, min_genes=7)
    assert tiny_adata.n_obs == 40
    with pytest.warns(DataWarning, match="30 of 40 cells are removed"):
        cf.pp.prepare(tiny_adata, model=tiny_vocab, min_genes=200)  # obeyed, as it is asked for
    assert tiny_adata.n_obs == 10
