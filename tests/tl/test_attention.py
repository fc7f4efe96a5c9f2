"""The tools that read attention: what they write, and what they refuse."""

import numpy as np
import pandas as pd
import pytest

import cellfm as cf
from cellfm.errors import DataWarning, InputError, MissingKeyError


def test_attention_by_group_and_reader(tiny_adata, tiny_model):
    cf.tl.attention(tiny_adata, tiny_model, groupby="label", readers=["GENE4"])
    found = tiny_adata.varm["cellfm_attention"]
    assert found.shape == (tiny_adata.n_vars, 2)
    assert list(tiny_adata.uns["cellfm"]["cellfm_attention"]["groups"]) == ["A", "B"]
    assert np.isnan(found[300:]).all()
    assert 0 <= np.nanmin(found) <= np.nanmax(found) <= 1
    of_reader = tiny_adata.varm["cellfm_attention_GENE4"]
    assert np.isnan(of_reader[4]).all()
    assert np.isfinite(of_reader[5]).all()


def test_attention_of_a_group_is_that_of_its_cells(tiny_adata, tiny_model):
    cf.tl.attention(tiny_adata, tiny_model, groupby="label")
    alone = tiny_adata[tiny_adata.obs["label"] == "A"].copy()
    cf.tl.attention(alone, tiny_model, attention_layer=1, key_added="alone")
    np.testing.assert_allclose(alone.varm["alone"][:, 0], tiny_adata.varm["cellfm_attention"][:, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"groupby": "type"}, MissingKeyError, "No column 'type' in obs; there are: label, batch"),
        ({"readers": ["NOPE"]}, MissingKeyError, "The reader 'NOPE' is not in var_names"),
        ({"readers": ["UNKNOWN1"]}, InputError, "does not know the reader 'UNKNOWN1'"),
        ({"attention_layer": 5}, InputError, "layer must be from -2 to 1, not 5"),
        ({"layer": "raw"}, InputError, "to_adata"),
    ],
)
def test_attention_refuses(tiny_adata, tiny_model, options, error, message):
    with pytest.raises(error, match=message):
        cf.tl.attention(tiny_adata, tiny_model, **options)
    assert not tiny_adata.varm


@pytest.fixture
def with_lncrnas(tiny_adata):
    """GENE0 to GENE29 are lncRNAs; GENE0 is silent but in cells of B."""
    counts = tiny_adata.X.toarray()
    counts[(tiny_adata.obs["label"] == "A").to_numpy(), 0] = 0
    counts[(tiny_adata.obs["label"] == "B").to_numpy(), 0] = 30
    tiny_adata.X = counts
    tiny_adata.var["kind"] = np.where(np.arange(tiny_adata.n_vars) < 30, "lncRNA", "protein_coding")
    return tiny_adata


def test_lncrnas_that_mark_a_group_come_first(with_lncrnas, tiny_model):
    cf.tl.rank_lncrnas(with_lncrnas, tiny_model, groupby="label", biotypes="kind", n_permutations=99)
    table = with_lncrnas.uns["cellfm_lncrnas"]
    first = table[table["group"] == "B"].iloc[0]
    assert first["gene"] == "GENE0"
    assert first["p_value"] == pytest.approx(0.01)
    assert first["wilcoxon_log_fold_change"] > 3
    assert first["wilcoxon_p_adjusted"] < 0.01
    assert (first["n_cells"], first["fraction"]) == (20, 1.0)
    assert set(table["gene"]) <= {f"GENE{i}" for i in range(30)}
    assert "GENE0" not in set(table[table["group"] == "A"]["gene"])


def test_biotypes_come_from_anywhere(with_lncrnas, tiny_model, tmp_path):
    options = {"groupby": "label", "n_permutations": 5, "copy": True}
    expected = cf.tl.rank_lncrnas(with_lncrnas, tiny_model, biotypes="kind", **options)
    kinds = with_lncrnas.var["kind"]
    hgnc = pd.DataFrame({"symbol": kinds.index, "locus_type": kinds.replace({"lncRNA": "RNA, long non-coding"})})
    hgnc.to_csv(tmp_path / "hgnc.txt", sep="\t", index=False)
    gencode = {f"ENSG{i:011d}.3": kind for i, kind in enumerate(kinds[:290])}
    for biotypes in (kinds, dict(kinds), gencode, tmp_path / "hgnc.txt"):
        found = cf.tl.rank_lncrnas(with_lncrnas, tiny_model, biotypes=biotypes, **options)
        pd.testing.assert_frame_equal(found.uns["cellfm_lncrnas"], expected.uns["cellfm_lncrnas"])


def test_rank_lncrnas_refuses(with_lncrnas, tiny_model, tmp_path):
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    for options, error, message in (
        ({}, InputError, "by the model's vocabulary, which has: nothing"),
        (
            {"biotypes": dict.fromkeys(with_lncrnas.var_names, "protein_coding")},
            InputError,
            "which has: protein_coding",
        ),
        ({"biotypes": "nowhere"}, MissingKeyError, "neither a column of var nor a file. Columns: kind"),
        ({"biotypes": tmp_path / "odd.csv"}, InputError, "has the columns a, b; expected one of symbol"),
        ({"biotypes": "kind", "min_frac": 2}, InputError, "min_frac between 0 and 1"),
        ({"biotypes": "kind", "layer": "raw"}, InputError, r"call adata\.raw\.to_adata\(\) first"),
    ):
        with pytest.raises(error, match=message):
            cf.tl.rank_lncrnas(with_lncrnas, tiny_model, groupby="label", **options)
    with pytest.raises(InputError, match="has 1 group"):
        cf.tl.rank_lncrnas(with_lncrnas[with_lncrnas.obs["label"] == "A"].copy(), tiny_model, groupby="label")


def test_perturbed_genes_come_from_control_cells(tiny_adata, tiny_model):
    without = tiny_adata[:, tiny_adata.var_names != "GENE9"].copy()
    cf.tl.perturbed_genes(
        without, tiny_model, genes=["GENE9", "ENSG00000000003"], groupby="label", control="A", n_genes=7
    )
    table = without.uns["cellfm_perturbed_genes"]
    assert table["perturbed"].value_counts().to_dict() == {"GENE9": 7, "ENSG00000000003": 7}
    assert not (table["gene"] == "GENE3").where(table["perturbed"] == "ENSG00000000003", False).any()
    assert (table.groupby("perturbed")["score"].diff().dropna() <= 0).all()
    controls = without[without.obs["label"] == "A"].copy()
    cf.tl.perturbed_genes(controls, tiny_model, genes=["GENE9", "ENSG00000000003"], n_genes=7)
    pd.testing.assert_frame_equal(controls.uns["cellfm_perturbed_genes"], table)
    cf.tl.perturbed_genes(controls, tiny_model, genes="GENE9", n_genes=7, reads=False, key_added="read_by")
    assert list(controls.uns["read_by"]["gene"]) != list(table["gene"][:7])


def test_perturbed_genes_refuses(tiny_adata, tiny_model):
    with pytest.raises(MissingKeyError, match="does not know 1 of the genes: NOPE"):
        cf.tl.perturbed_genes(tiny_adata, tiny_model, genes=["GENE1", "NOPE"])
    with pytest.raises(InputError, match="genes= names no gene"):
        cf.tl.perturbed_genes(tiny_adata, tiny_model, genes=[])
    with pytest.raises(InputError, match=r"call adata\.raw\.to_adata\(\) first"):
        cf.tl.perturbed_genes(tiny_adata, tiny_model, genes=["GENE1"], layer="raw")
    with pytest.raises(InputError, match="belong together"):
        cf.tl.perturbed_genes(tiny_adata, tiny_model, genes=["GENE1"], groupby="label")
    with pytest.raises(InputError, match=r"has no 'ctrl'; there are: A, B"):
        cf.tl.perturbed_genes(tiny_adata, tiny_model, genes=["GENE1"], groupby="label", control="ctrl")


def test_plots_draw_what_is_stored(with_lncrnas, tiny_model):
    with pytest.raises(MissingKeyError, match="call cf.tl.attention"):
        cf.pl.attention(with_lncrnas)
    cf.tl.attention(with_lncrnas, tiny_model, groupby="label", readers=["GENE4"])
    ax = cf.pl.attention(with_lncrnas, n_genes=3)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["A", "B"]
    assert len(ax.get_yticklabels()) >= 3
    cf.pl.attention(with_lncrnas, key="cellfm_attention_GENE4", genes=["GENE5", "GENE6"])
    with pytest.raises(MissingKeyError, match="1 genes have no scores: GENE4"):
        cf.pl.attention(with_lncrnas, key="cellfm_attention_GENE4", genes=["GENE4"])
    with pytest.raises(MissingKeyError, match=r"call cf\.tl\.rank_lncrnas"):
        cf.pl.lncrnas(with_lncrnas)
    cf.tl.rank_lncrnas(with_lncrnas, tiny_model, groupby="label", biotypes="kind", n_permutations=99)
    ax = cf.pl.lncrnas(with_lncrnas)
    assert "GENE0" in {label.get_text() for label in ax.get_xticklabels()}
    with pytest.warns(DataWarning, match=r"up to 1e-09 \(least: 0.0\d+\); the most specific"):
        few = cf.pl.lncrnas(with_lncrnas, alpha=1e-9)
    assert "GENE0" in {label.get_text() for label in few.get_xticklabels()}
    with_lncrnas.uns["cellfm_lncrnas"]["specificity"] = 0.0
    with pytest.raises(InputError, match="No lncRNA .* is more specific"):
        cf.pl.lncrnas(with_lncrnas)
