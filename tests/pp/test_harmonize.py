"""Harmonised genes have the model's names, equal ones are added up, and nothing else changes."""

from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import cellfm as cf
from cellfm.cells.harmonize import merge_columns
from cellfm.cells.mudata import without_pulling
from cellfm.errors import DownloadError, InputError
from cellfm.genes.vocabulary import Vocabulary

VOCAB = Vocabulary(
    pd.DataFrame(
        {
            "symbol": ["TP53", "CD3E", "KMT2A", "SEPT1", "GENE5"],
            "ensembl_id": ["ENSG00000141510", "ENSG00000198851", "ENSG00000118058", "", ""],
        }
    )
)
HGNC = """symbol\talias_symbol\tprev_symbol\tensembl_gene_id
KMT2A\tHRX\tMLL|MLL1\tENSG00000118058
SEPTIN1\tBOTH\tSEPT1\tENSG00000180096
NEWGENE\tBOTH\tOLDGENE\tENSG00000000009
GENE5\tFIVE\t\t
"""
NAMES = ["MLL1", "CD3E", "ENSG00000141510.3", "MLL", "OLDGENE", "BOTH", "TP53", "SEPTIN1", "FIVE", "KMT2A"]
NEW = ["KMT2A", "CD3E", "TP53", "NEWGENE", "BOTH", "SEPT1", "GENE5"]
GROUPS = [[0, 3, 9], [1], [2, 6], [4], [5], [7], [8]]
pytestmark = pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")


@pytest.fixture
def hgnc(tmp_path: Path) -> Path:
    path = tmp_path / "hgnc.tsv"
    path.write_text(HGNC)
    return path


@pytest.fixture
def adata() -> AnnData:
    generator = np.random.default_rng(0)
    n_cells, n_vars = 6, len(NAMES)
    counts = generator.poisson(1.5, (n_cells, n_vars)).astype(np.float32)
    return AnnData(
        sp.csr_matrix(counts),
        obs=pd.DataFrame({"label": list("ababab")}, index=[f"cell{i}" for i in range(n_cells)]),
        var=pd.DataFrame({"place": np.arange(n_vars)}, index=NAMES),
        obsm={"X_pca": generator.random((n_cells, 2))},
        varm={"PCs": generator.random((n_vars, 2))},
        obsp={"distances": sp.eye(n_cells, format="csr")},
        layers={"counts": counts, "log": np.log1p(counts / 3)},
        uns={"title": "cells"},
    )


def summed(values: np.ndarray) -> np.ndarray:
    return np.stack([values[:, group].sum(axis=1) for group in GROUPS], axis=1)


def test_names_counts_and_records(adata: AnnData, hgnc: Path):
    counts, logs = adata.X.toarray(), adata.layers["log"]
    assert cf.pp.harmonize_genes(adata, model=VOCAB, hgnc=hgnc) is None
    assert adata.var_names.tolist() == NEW
    np.testing.assert_array_equal(adata.X.toarray(), summed(counts))
    np.testing.assert_array_equal(adata.layers["counts"], summed(counts))
    np.testing.assert_allclose(adata.layers["log"], np.log1p(summed(np.expm1(logs))), rtol=1e-6)
    assert isinstance(adata.X, sp.csr_matrix)
    assert adata.X.dtype == adata.layers["log"].dtype == np.float32
    firsts = [group[0] for group in GROUPS]
    assert adata.var["cellfm_original_name"].tolist() == [NAMES[i] for i in firsts]
    assert adata.var["cellfm_match"].tolist() == ["previous", "symbol", "ensembl", "none", "none", "previous", "alias"]
    assert isinstance(adata.var["cellfm_match"].dtype, pd.CategoricalDtype)
    record = adata.uns["cellfm"]["genes"]
    expected = {"n_symbol": 3, "n_ensembl": 1, "n_previous": 3, "n_alias": 1, "n_none": 2, "n_merged": 3}
    assert expected.items() <= record.items()
    assert record["n_ambiguous"] == 1
    assert record["vocabulary_sha256"] == VOCAB.hash
    assert len(record["hgnc_sha256"]) == 64


def test_all_else_stays(adata: AnnData, hgnc: Path):
    before = adata.copy()
    cf.pp.harmonize_genes(adata, model=VOCAB, hgnc=hgnc)
    firsts = [group[0] for group in GROUPS]
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    np.testing.assert_array_equal(adata.obsm["X_pca"], before.obsm["X_pca"])
    assert (adata.obsp["distances"] != before.obsp["distances"]).nnz == 0
    np.testing.assert_array_equal(adata.varm["PCs"], before.varm["PCs"][firsts])
    assert adata.var["place"].tolist() == firsts
    assert adata.uns["title"] == "cells"


def test_twice_is_once(adata: AnnData, hgnc: Path):
    cf.pp.harmonize_genes(adata, model=VOCAB, hgnc=hgnc)
    once = adata.copy()
    cf.pp.harmonize_genes(adata, model=VOCAB, hgnc=hgnc)
    assert adata.var_names.tolist() == once.var_names.tolist()
    assert (adata.X != once.X).nnz == 0
    assert adata.var["cellfm_original_name"].tolist() == once.var["cellfm_original_name"].tolist()


def test_a_copy_leaves_the_data_alone(adata: AnnData, hgnc: Path):
    before = adata.copy()
    result = cf.pp.harmonize_genes(adata, model=VOCAB, hgnc=hgnc, copy=True)
    cf.pp.harmonize_genes(before, model=VOCAB, hgnc=hgnc)
    assert adata.var_names.tolist() == NAMES
    assert "cellfm" not in adata.uns
    assert list(adata.var.columns) == ["place"]
    assert result.var_names.tolist() == NEW
    assert (result.X != before.X).nnz == 0


def test_without_a_table_symbols_and_ensembl_ids_still_match(adata: AnnData):
    cf.pp.harmonize_genes(adata, model=VOCAB, hgnc=False)
    assert adata.var_names.tolist() == ["MLL1", "CD3E", "TP53", "MLL", "OLDGENE", "BOTH", "SEPTIN1", "FIVE", "KMT2A"]


def test_offline_download_changes_nothing(adata: AnnData):
    with pytest.raises(DownloadError):
        cf.pp.harmonize_genes(adata, model=VOCAB, hgnc="download")
    assert adata.var_names.tolist() == NAMES


@pytest.mark.parametrize("column", ["gene_ids", "mine"])
def test_names_in_a_column(column: str):
    ids = ["ENSG00000198851.4", "ENSG00000141510", "ENSG00000000009"]
    adata = AnnData(np.eye(3, dtype=np.float32), var=pd.DataFrame({column: ids}, index=["x", "y", "z"]))
    cf.pp.harmonize_genes(adata, model=VOCAB, gene_key="mine" if column == "mine" else None)
    assert adata.var_names.tolist() == ["CD3E", "TP53", "z"]


def test_an_unknown_gene_is_not_mixed_with_a_known_one_of_that_name():
    var = pd.DataFrame({"mine": ["CD3E", "nothing", ""]}, index=["a", "CD3E", ""])
    adata = AnnData(np.arange(6, dtype=np.float32).reshape(2, 3), var=var)
    cf.pp.harmonize_genes(adata, model=VOCAB, gene_key="mine")
    assert adata.n_vars == 3
    assert adata.var_names.tolist()[0] == "CD3E"
    assert adata.var_names.is_unique


def test_an_alias_of_a_gene_that_is_there_is_another_gene(hgnc: Path):
    def named(*names: str) -> list[str]:
        adata = AnnData(np.ones((2, len(names)), np.float32), var=pd.DataFrame(index=list(names)))
        cf.pp.harmonize_genes(adata, model=VOCAB, hgnc=hgnc)
        return adata.var_names.tolist()

    assert named("HRX", "CD3E") == ["KMT2A", "CD3E"]
    assert named("HRX", "KMT2A") == ["HRX", "KMT2A"]
    assert named("HRX", "ENSG00000118058") == ["HRX", "KMT2A"]
    assert named("MLL", "KMT2A") == ["KMT2A"]


def test_repeated_names_are_added_up():
    adata = AnnData(np.arange(8, dtype=np.float32).reshape(2, 4), var=pd.DataFrame(index=["u", "TP53", "u", "TP53"]))
    cf.pp.harmonize_genes(adata, model=VOCAB)
    assert adata.var_names.tolist() == ["u", "TP53"]
    np.testing.assert_array_equal(adata.X, [[2, 4], [10, 12]])


@pytest.mark.parametrize("stored", [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_storage_and_type_stay(adata: AnnData, hgnc: Path, stored: type, dtype: type):
    counts = adata.X.toarray()
    plain = AnnData(stored(counts.astype(dtype)), var=pd.DataFrame(index=NAMES))
    cf.pp.harmonize_genes(plain, model=VOCAB, hgnc=hgnc)
    assert plain.X.dtype == dtype
    assert sp.issparse(plain.X) == sp.issparse(stored(counts))
    if sp.issparse(plain.X):
        assert plain.X.format == stored(counts).format
    values = plain.X.toarray() if sp.issparse(plain.X) else plain.X
    np.testing.assert_array_equal(values, summed(counts))


def test_sums_do_not_overflow():
    target = np.array([0, 1, 0])
    values = np.array([[200, 1, 100], [0, 2, 1]])
    for stored in (values.astype(np.uint8), sp.csr_matrix(values.astype(np.uint8)), values.astype(np.float16)):
        result = merge_columns(stored, target, "x")
        result = result.toarray() if sp.issparse(result) else result
        np.testing.assert_array_equal(result, [[300, 1], [1, 2]])


def test_logarithms_are_added_in_their_own_base(adata: AnnData, hgnc: Path):
    counts = adata.layers["counts"]
    logs = AnnData(sp.csr_matrix(np.log1p(counts / 7) / np.log(2)), var=pd.DataFrame(index=NAMES))
    logs.uns["log1p"] = {"base": 2}
    cf.pp.harmonize_genes(logs, model=VOCAB, hgnc=hgnc)
    np.testing.assert_allclose(logs.X.toarray(), np.log2(1 + summed(counts) / 7), rtol=1e-5)


def test_negative_values_are_refused_only_where_they_had_to_be_added(adata: AnnData, hgnc: Path):
    adata.layers["scaled"] = adata.layers["counts"] - 1
    before = adata.copy()
    with pytest.raises(InputError, match=r"adata.layers\['scaled'\] has negative values"):
        cf.pp.harmonize_genes(adata, model=VOCAB, hgnc=hgnc)
    assert adata.var_names.tolist() == NAMES
    assert (adata.X != before.X).nnz == 0
    assert "cellfm" not in adata.uns
    apart = adata[:, [1, 2, 8]].copy()
    cf.pp.harmonize_genes(apart, model=VOCAB, hgnc=hgnc)
    assert apart.var_names.tolist() == ["CD3E", "TP53", "GENE5"]
    np.testing.assert_array_equal(apart.layers["scaled"], before.layers["scaled"][:, [1, 2, 8]])


def test_matrices_stay_as_they_are_where_no_genes_are_equal(adata: AnnData):
    apart = adata[:, [1, 2, 8]].copy()
    x = apart.X
    cf.pp.harmonize_genes(apart, model=VOCAB)
    assert apart.X is x


def test_raw_is_left_alone(adata: AnnData, hgnc: Path):
    adata.raw = adata.copy()
    cf.pp.harmonize_genes(adata, model=VOCAB, hgnc=hgnc)
    assert adata.raw.var_names.tolist() == NAMES


def test_a_view_becomes_data_of_its_own(adata: AnnData, hgnc: Path):
    view = adata[:3]
    cf.pp.harmonize_genes(view, model=VOCAB, hgnc=hgnc)
    assert view.shape == (3, len(NEW))
    assert adata.var_names.tolist() == NAMES


def test_backed_data_are_refused(adata: AnnData, tmp_path: Path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(InputError, match=r"call adata = adata.to_memory\(\) first"):
        cf.pp.harmonize_genes(backed, model=VOCAB)
    backed.file.close()


def test_a_modality_is_harmonised_in_place(adata: AnnData, hgnc: Path):
    protein = AnnData(np.ones((6, 1), np.float32), obs=adata.obs[[]], var=pd.DataFrame(index=["P1"]))
    with without_pulling():
        mdata = mudata.MuData({"rna": adata, "protein": protein})
    result = cf.pp.harmonize_genes(mdata, model=VOCAB, hgnc=hgnc, copy=True)
    assert mdata.shape == (6, len(NAMES) + 1)
    assert result.shape == (6, len(NEW) + 1)
    assert result.mod["rna"].var_names.tolist() == NEW
    assert result.mod["protein"].var_names.tolist() == ["P1"]
    place = result.varmap["rna"]  # mudata keeps an order of its own
    assert result.var_names[place > 0].tolist() == [NEW[i - 1] for i in place[place > 0]]
    assert set(result.var_names) == {*NEW, "P1"}


def test_the_result_can_be_saved(adata: AnnData, hgnc: Path, tmp_path: Path):
    cf.pp.harmonize_genes(adata, model=VOCAB, hgnc=hgnc)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    loaded = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert loaded.var["cellfm_match"].tolist() == adata.var["cellfm_match"].tolist()
    assert loaded.uns["cellfm"]["genes"]["n_merged"] == 3


def test_names_of_other_programs_are_restored_offline():
    names = ["HLA.A", "HLA-A", "MLL", "2-Sep", "1-Mar", "AC104667.3", "CD3E_ENSG00000198851", "TBCE-1", "LINC.unknown"]
    counts = np.arange(18, dtype=np.float32).reshape(2, 9)
    adata = AnnData(counts, var=pd.DataFrame(index=names))
    cf.pp.harmonize_genes(adata)
    expected = ["HLA-A", "KMT2A", "SEPTIN2", "1-Mar", "AC104667.3", "CD3E", "TBCE", "LINC.unknown"]
    assert adata.var_names.tolist() == expected
    np.testing.assert_array_equal(adata.X, np.c_[counts[:, 0] + counts[:, 1], counts[:, 2:]])
    record = adata.uns["cellfm"]["genes"]
    assert (record["n_restored"], record["n_alias"], record["n_none"], record["n_ambiguous"]) == (3, 1, 2, 1)
    once = adata.copy()
    cf.pp.harmonize_genes(adata)
    assert adata.var_names.tolist() == once.var_names.tolist()


def test_names_and_ids_that_contradict_each_other_are_refused():
    vocab = cf.load_model("mini").vocab.genes
    genes = vocab[(vocab["ensembl_id"] != "") & (vocab["biotype"] == "protein_coding")].iloc[:40]
    var = pd.DataFrame({"gene_ids": np.roll(genes["ensembl_id"], 1)}, index=genes["symbol"].to_numpy(object))
    adata = AnnData(np.ones((2, 40), np.float32), var=var)
    with pytest.raises(InputError, match="name different genes in 40 of the 40 rows"):
        cf.pp.harmonize_genes(adata)
    assert "cellfm" not in adata.uns
    cf.pp.harmonize_genes(adata, gene_key="var_names")
    assert adata.var_names.tolist() == genes["symbol"].tolist()
