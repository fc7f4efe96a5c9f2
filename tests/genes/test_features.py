"""Only human gene expression is read: rows of other feature types and genomes are left out, and said."""

import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from mudata import MuData

import cellfm as cf
from cellfm.cells.input import read_input
from cellfm.cells.matrix import read_matrix
from cellfm.cells.mudata import without_pulling
from cellfm.cells.read import read_cells
from cellfm.errors import DataWarning, InputError
from cellfm.genes.features import read_features, without_genome
from cellfm.genes.hgnc import package_synonyms
from cellfm.genes.vocabulary import Vocabulary, resolve_vocabulary
from cellfm.model import CellFM
from cellfm.train import write_shards

NOT_UNIQUE = pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")


def left_out(names: list[str] | int = 3, **columns: list) -> dict[str, int]:
    names = [f"GENE{i}" for i in range(names)] if isinstance(names, int) else names
    return read_features(pd.DataFrame(columns, index=names)).left_out


@pytest.mark.parametrize("column", ["feature_types", "feature_type", "Feature Type", "modality", "gem", "my_own"])
@pytest.mark.parametrize("gene", ["Gene Expression", "gene_expression", "GEX", "RNA", "rna", "Gene", "gene"])
@pytest.mark.parametrize(
    "other", ["Antibody Capture", "ADT", "protein", "CRISPR Guide Capture", "HTO", "Peaks", "Custom"]
)
def test_columns_of_feature_types_are_understood_however_they_are_spelt(column: str, gene: str, other: str):
    assert left_out(**{column: [gene, other, gene]}) == {other: 1}
    assert left_out(**{column: pd.Categorical([gene, other, None])}) == {other: 1}


@pytest.mark.parametrize(
    "columns",
    [
        {"feature_type": ["protein_coding", "lncRNA", "miRNA"]},
        {"feature_types": ["gene", "pseudogene", "IG_C_gene"]},
        {"feature_type": ["protein", "lncRNA", "snRNA"]},
        {"type": ["protein", "protein", "lncRNA"]},
        {"feature_types": [np.nan, np.nan, np.nan]},
        {"feature_types": ["Gene Expression"] * 3},
        {"feature_types": ["chr1", "chr2", "chrX"]},
        {"modality": [1, 2, 3]},
        {"highly_variable": [True, False, True]},
        {"genome": ["GRCh38", "GRCh38", ""]},
        {"genome": ["my reference"] * 3},
        {},
    ],
)
def test_columns_of_other_things_leave_no_gene_out(columns: dict):
    assert left_out(**columns) == {}


def test_odd_tables_are_looked_through():
    var = pd.DataFrame({"lists": [[1], [2], [3]], 0: [1, 2, 3], "twice": list("abc")}, index=list("ABC"))
    var = pd.concat([var, pd.DataFrame({"twice": [b"RNA", b"ADT", b"RNA"]}, index=var.index)], axis=1)
    var[("two", "levels")] = pd.Timestamp("2020-01-01")
    assert read_features(var).left_out == {"ADT": 1}


def test_rows_of_an_unknown_type_beside_gene_expression_are_left_out_by_its_name():
    assert left_out(feature_types=["Gene Expression", "Nanobody Capture", "Something New"]) == {
        "Nanobody Capture": 1,
        "Something New": 1,
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("CD3_TotalSeqB", "Antibody Capture"),
        ("CD4_TotalC", "Antibody Capture"),
        ("adt_CD4", "Antibody Capture"),
        ("ADT-CD8", "Antibody Capture"),
        ("AB_CD19", "Antibody Capture"),
        ("AB-CD19", "Antibody Capture"),
        ("CD4-ADT", "Antibody Capture"),
        ("CD4_adt", "Antibody Capture"),
        ("CD4.ADT.1", "Antibody Capture"),
        ("CD4-protein", "Antibody Capture"),
        ("CD4_prot", "Antibody Capture"),
        ("prot:CD4", "Antibody Capture"),
        ("prot_CD4", "Antibody Capture"),
        ("protein-HLA-DR", "Antibody Capture"),
        ("CITE-seq_CD4", "Antibody Capture"),
        ("CD4.TotalSeqC", "Antibody Capture"),
        ("TotalSeq-B_CD4", "Antibody Capture"),
        ("anti-CD4", "Antibody Capture"),
        ("Anti.HLA.DR", "Antibody Capture"),
        ("antiCD4", "Antibody Capture"),
        ("anti-human CD4", "Antibody Capture"),
        ("A0072_anti-human_CD4", "Antibody Capture"),
        ("Hu.CD4_RPA.T4", "Antibody Capture"),
        ("HuMs.CD44", "Antibody Capture"),
        ("Isotype_MOPC.21", "Antibody Capture"),
        ("IgG2a-isotype-ctrl", "Antibody Capture"),
        ("CD4:SK3|CD4|AHS0032|pAbO", "Antibody Capture"),
        ("HTO1", "Multiplexing Capture"),
        ("B0251_Hashtag1", "Multiplexing Capture"),
        ("SampleTag01_hs|stAbO", "Multiplexing Capture"),
        ("TP53_sg1", "CRISPR Guide Capture"),
        ("TP53-gRNA-2", "CRISPR Guide Capture"),
        ("non-targeting_0012", "CRISPR Guide Capture"),
        ("Hashtag1", "Multiplexing Capture"),
        ("HTO_3", "Multiplexing Capture"),
        ("sgRNA_TP53_1", "CRISPR Guide Capture"),
        ("chr1:10109-10357", "Peaks"),
    ],
)
def test_names_that_no_gene_has_tell_what_a_row_is(name: str, kind: str):
    assert left_out(["CD4", name, "CD8A"]) == {kind: 1}
    assert left_out(["CD4", name, "CD8A"], feature_types=["Gene Expression"] * 3) == {kind: 1}


def test_no_gene_is_taken_for_something_else():
    symbols = np.array(resolve_vocabulary("mini").symbols, dtype=object)
    others = np.array([*package_synonyms().names], dtype=object)  # HS1-BP3, AB-DIP, B-PROTEIN, RN5-8S1, HU-K4
    for names in (symbols, others):
        for written in (names, np.array([make_names(name) for name in names], dtype=object)):
            assert left_out(list(written)) == {}
            np.testing.assert_array_equal(without_genome(np.append(written, "hg38_CD4"))[:-1], written)


def make_names(name: str) -> str:
    """As R makes names of columns."""
    return re.sub(r"[^A-Za-z0-9.]", ".", name)


GENOMES = ["GRCh38", "GRCh37", "hg19", "hg38", "human", "GRCh38.p13", "hs37d5", "T2T-CHM13", "Homo_sapiens", "b37"]
FOREIGN = [
    "mm10",
    "mm39",
    "mm9",
    "GRCm38",
    "GRCm39",
    "mouse",
    "Mus_musculus",
    "rn6",
    "mRatBN7.2",
    "danRer11",
    "rheMac10",
]


@given(
    genome=st.sampled_from(GENOMES),
    other=st.sampled_from(FOREIGN),
    sign=st.sampled_from(["_", "__", "___", "-", "---", ".", "...", ":"]),
    build=st.sampled_from(["", "-2020-A", "_premrna", "-2024-A"]),
)
def test_prefixes_of_genomes_are_understood_with_any_sign(genome: str, other: str, sign: str, build: str):
    human = ["CD4", "HLA-DRA", "AC004556.3", "MT-CO1"]
    names = [f"{genome}{build}{sign}{name}" for name in human] + [f"{other}{sign}{name}" for name in ["Cd4", "H2-K1"]]
    found = read_features(pd.DataFrame(index=names))
    assert found.is_gene.tolist() == [True] * 4 + [False] * 2
    assert [name.split(" ")[0] for name in found.left_out] == [other]
    assert not found.genomes
    assert without_genome(np.array(names, dtype=object)).tolist() == [*human, "Cd4", "H2-K1"]


def test_the_advice_on_two_human_genomes_works_as_it_is_written():
    adata = AnnData(np.ones((2, 4), np.float32), var=pd.DataFrame(index=["hg19-A", "hg19-B", "GRCh38-A", "GRCh38-B"]))
    advice = re.search(r"adata = (adata\[.*\]\.copy\(\))", read_features(adata.var).problem("adata.var"))
    assert list(eval(advice[1], {"adata": adata}).var_names) == ["hg19-A", "hg19-B"]


@pytest.mark.parametrize(
    ("names", "columns", "expected"),
    [
        (["GRCh38_CD4", "GRCh38_CD3E", "mm10___Cd4"], {}, {"mm10 (mouse)": 1}),
        (["GRCh38______CD4", "mm10_Cd4", "mm10_Cd3e"], {}, {"mm10 (mouse)": 2}),
        (["hg19_CD4", "hg19_CD3E", "mm10_Cd4"], {}, {"mm10 (mouse)": 1}),
        (["CD4", "CD3E", "Cd4"], {"genome": ["GRCh38", "GRCh38", "GRCm39"]}, {"GRCm39 (mouse)": 1}),
        (["CD4", "CD3E", "ORF1"], {"genome": ["GRCh38-2020-A", "GRCh38-2020-A", "SARS-CoV-2"]}, {"SARS-CoV-2": 1}),
        (["Cd4", "Cd3e", "Cd8a"], {"genome": ["mm10"] * 3}, {"mm10 (mouse)": 3}),
    ],
)
def test_genes_of_other_genomes_are_left_out(names: list[str], columns: dict, expected: dict[str, int]):
    assert left_out(names, **columns) == expected


@pytest.mark.parametrize(
    ("genomes", "listed"), [(["hg19", "GRCh38", "GRCh38"], "GRCh38, hg19"), (["one", "two", "two"], "two, one")]
)
def test_genomes_among_which_none_can_be_chosen_are_named(genomes: list[str], listed: str):
    problem = read_features(pd.DataFrame({"genome": genomes}, index=list("abc"))).problem("adata.var")
    assert f"several genomes ({listed})" in problem
    assert "with genome= when the file is read" in problem


def test_a_genome_is_chosen_of_those_that_a_file_names(tmp_path: Path):
    cells = AnnData(np.ones((2, 3), np.float32), var=pd.DataFrame(index=["A", "B", "C"]))
    cells.write_h5ad(tmp_path / "none.h5ad")
    cells.var["genome"] = ["hg19", "GRCh38", "GRCh38"]
    cells.write_h5ad(tmp_path / "two.h5ad")
    assert list(read_cells(tmp_path / "two.h5ad", genome="GRCh38").var_names) == ["B", "C"]
    assert list(read_cells(tmp_path / "none.h5ad", genome="GRCh38").var_names) == ["A", "B", "C"]
    with pytest.raises(InputError, match="contains no genome 'mm10'; available: GRCh38, hg19"):
        read_cells(tmp_path / "two.h5ad", genome="mm10")


def test_a_chosen_genome_leaves_the_rest_of_a_mudata_as_it_is(tmp_path: Path):
    generator = np.random.default_rng(0)
    rna = AnnData(generator.random((3, 4), np.float32), var=pd.DataFrame({"genome": list("hmhm")}, index=list("ABCD")))
    prot = AnnData(generator.random((3, 2), np.float32), var=pd.DataFrame(index=["P", "Q"]))
    for table in (rna, prot):
        table.obs_names = ["one", "two", "three"]
    rna.var["genome"] = ["hg19", "mm10"] * 2
    with without_pulling():
        both = MuData({"rna": rna, "prot": prot})
    both.obs["batch"], both.var["score"] = [1, 2, 3], np.arange(6.0)
    both.obsm["X_joint"], both.obsp["near"] = generator.random((3, 2)), generator.random((3, 3))
    both.varm["loadings"], both.varp["alike"] = generator.random((6, 2)), generator.random((6, 6))
    both.uns["facts"] = "kept"
    with without_pulling():
        both.write_h5mu(tmp_path / "both.h5mu")
    read = read_cells(tmp_path / "both.h5mu", genome="hg19")
    rows = [0, 2, 4, 5]
    assert list(read.var_names) == ["A", "C", "P", "Q"]
    assert read.obs["batch"].tolist() == [1, 2, 3]
    assert read.var["score"].tolist() == rows
    assert read.uns["facts"] == "kept"
    np.testing.assert_array_equal(read.obsm["X_joint"], both.obsm["X_joint"])
    np.testing.assert_array_equal(read.obsp["near"], both.obsp["near"])
    np.testing.assert_array_equal(read.varm["loadings"], both.varm["loadings"][rows])
    np.testing.assert_array_equal(read.varp["alike"], both.varp["alike"][np.ix_(rows, rows)])
    np.testing.assert_array_equal(read.mod["rna"].X, rna.X[:, [0, 2]])
    with without_pulling():
        read.write_h5mu(tmp_path / "again.h5mu")
    assert set(read_cells(tmp_path / "again.h5mu").varm) == set(read.varm)


def with_antibodies(genes: AnnData, n: int, places: int = 0) -> AnnData:
    """The cells with antibodies that carry the names of genes, from some place on."""
    counts = sp.csr_matrix(np.random.default_rng(0).poisson(300, (genes.n_obs, n)).astype(np.float32))
    names = [str(genes.var_names[i % genes.n_vars]) for i in range(n)]
    types = ["Gene Expression"] * places + ["Antibody Capture"] * n + ["Gene Expression"] * (genes.n_vars - places)
    index = [*genes.var_names[:places], *names, *genes.var_names[places:]]
    x = sp.hstack([genes.X[:, :places], counts, genes.X[:, places:]], format="csr")
    return AnnData(x, obs=genes.obs.copy(), var=pd.DataFrame({"feature_types": types}, index=index))


@NOT_UNIQUE
def test_the_input_is_that_of_the_genes_alone(tiny_adata: AnnData, tiny_vocab: Vocabulary):
    expected = read_input(tiny_adata, tiny_vocab)

    @given(n=st.integers(1, 9), place=st.integers(0, tiny_adata.n_vars), form=st.sampled_from(["csr", "csc", "dense"]))
    def check(n: int, place: int, form: str) -> None:
        both = with_antibodies(tiny_adata, n, place)
        both.X = both.X.toarray() if form == "dense" else both.X.asformat(form)
        with pytest.warns(DataWarning, match=rf"{n} rows? of var (is|are) left out: {n} Antibody Capture"):
            cells = read_input(both, tiny_vocab)
        assert cells.match.n_genes == tiny_adata.n_vars
        for (_, found), (_, alone) in zip(cells.tokens(64, 0), expected.tokens(64, 0), strict=True):
            for name in ("indptr", "gene_ids", "values", "depth"):
                np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))

    check()


@NOT_UNIQUE
def test_every_tool_reads_genes_only(tiny_adata: AnnData, tiny_model: CellFM):
    both = with_antibodies(tiny_adata, 5)
    alone = read_matrix(tiny_adata)
    matrix = read_matrix(both)
    assert matrix.rows(0, 3).shape == (3, both.n_vars)
    assert (matrix.rows(0, both.n_obs)[:, 5:] != alone.rows(0, both.n_obs)).nnz == 0
    assert not matrix.rows(0, both.n_obs)[:, :5].nnz
    report = cf.pp.check(both, model=tiny_model)
    assert report.left_out == {"Antibody Capture": 5}
    assert report.n_genes == tiny_adata.n_vars
    assert "5 Antibody Capture" in repr(report)
    with pytest.warns(DataWarning, match="5 Antibody Capture"):
        cf.tl.embed(both, tiny_model)
    cf.tl.embed(tiny_adata, tiny_model)
    np.testing.assert_array_equal(both.obsm["X_cellfm"], tiny_adata.obsm["X_cellfm"])
    with pytest.warns(DataWarning, match="5 Antibody Capture"):
        cf.tl.attention_partners(both, tiny_model, genes=[str(tiny_adata.var_names[0])])


@NOT_UNIQUE
def test_negative_antibodies_do_not_keep_the_genes_from_being_read(tiny_adata: AnnData, tiny_model: CellFM):
    both = with_antibodies(tiny_adata, 5)
    values = both.X.toarray()
    values[:, :5] -= 301.5
    both.X = values
    assert cf.pp.check(both, model=tiny_model).ok


@NOT_UNIQUE
def test_rows_that_are_no_genes_keep_names_and_values(tiny_adata: AnnData, tiny_model: CellFM):
    both = with_antibodies(tiny_adata, 5)
    twin = both[:, [5]].copy()  # a gene that occurs twice
    both = anndata.concat([both, twin], axis=1, merge="same")
    both.obs["label"] = tiny_adata.obs["label"].to_numpy()
    done = cf.pp.harmonize_genes(both, model=tiny_model, copy=True)
    assert done.n_vars == both.n_vars - 1
    assert list(done.var_names[:5]) == list(both.var_names[:5])
    np.testing.assert_array_equal(done.X[:, :5].toarray(), both.X[:, :5].toarray())
    np.testing.assert_array_equal(done.X[:, 5].toarray(), 2 * both.X[:, 5].toarray())


def test_data_without_genes_are_refused_with_what_they_are(tiny_adata: AnnData, tiny_model: CellFM):
    for types, match in (("Antibody Capture", "only [0-9]+ Antibody Capture"), ("Peaks", "only [0-9]+ Peaks")):
        tiny_adata.var["feature_types"] = types
        with pytest.raises(InputError, match=match):
            cf.tl.embed(tiny_adata, tiny_model)
        assert any(
            "no human gene expression" in problem for problem in cf.pp.check(tiny_adata, model=tiny_model).problems
        )
    with without_pulling(), pytest.raises(InputError, match="Peaks"):
        cf.tl.embed(MuData({"prot": tiny_adata}), tiny_model, modality="prot")
    tiny_adata.var = tiny_adata.var[[]].assign(genome="mm10")
    with pytest.raises(InputError, match=r"only [0-9]+ mm10 \(mouse\).*orthologues"):
        cf.tl.embed(tiny_adata, tiny_model)


@pytest.mark.parametrize("prefix", ["GRCh38_", "hg38-", "hg19.", "GRCh37---", "human_"])
def test_prefixed_genes_are_found(tiny_adata: AnnData, tiny_model: CellFM, prefix: str):
    prefixed = tiny_adata.copy()
    prefixed.var_names = prefix + prefixed.var_names
    cf.tl.embed(prefixed, tiny_model)
    cf.tl.embed(tiny_adata, tiny_model)
    np.testing.assert_array_equal(prefixed.obsm["X_cellfm"], tiny_adata.obsm["X_cellfm"])


@NOT_UNIQUE
def test_shards_hold_genes_only(tmp_path, tiny_adata: AnnData, tiny_model: CellFM):
    options = {"model": tiny_model, "min_genes": 1, "validation_fraction": 0.0}
    with pytest.warns(DataWarning, match="5 Antibody Capture"):
        found = write_shards(with_antibodies(tiny_adata, 5), tmp_path / "both", **options)
    alone = write_shards(tiny_adata, tmp_path / "alone", **options)
    everything = np.arange(len(alone))
    assert (found.counts(everything) != alone.counts(everything)).nnz == 0


def test_shards_take_the_human_genes_of_a_barnyard(tmp_path, tiny_adata: AnnData, tiny_model: CellFM):
    mouse = AnnData(tiny_adata.X.copy(), var=pd.DataFrame(index=tiny_adata.var_names.str.capitalize()))
    x = sp.hstack([tiny_adata.X, mouse.X], format="csr")
    genomes = ["GRCh38"] * tiny_adata.n_vars + ["mm10"] * mouse.n_vars
    names = [*tiny_adata.var_names, *mouse.var_names]
    both = AnnData(x, obs=tiny_adata.obs[[]], var=pd.DataFrame({"genome": genomes}, index=names))
    options = {"model": tiny_model, "min_genes": 1, "validation_fraction": 0.0}
    with pytest.warns(DataWarning, match=rf"{mouse.n_vars} mm10 \(mouse\)"):
        found = write_shards(both, tmp_path / "both", **options)
    alone = write_shards(tiny_adata, tmp_path / "alone", **options)
    assert (found.counts(np.arange(len(alone))) != alone.counts(np.arange(len(alone)))).nnz == 0
