"""The tools that read attention: what they write, and what they refuse."""

import numpy as np
import pandas as pd
import pytest
from anndata import read_h5ad
from scipy.stats import false_discovery_control, mannwhitneyu, rankdata, spearmanr

import cellfm as cf
from cellfm.errors import DataWarning, InputError, MissingKeyError
from cellfm.model import CellFM


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


def test_expression_is_ranked_beside_attention(tiny_adata, tiny_model):
    cf.tl.attention(tiny_adata, tiny_model, groupby="label", readers=["GENE4"])
    counts = tiny_adata.X.toarray()[:, :300]  # the known genes
    ranks = np.full(counts.shape, np.nan)
    for cell, row in zip(counts, ranks, strict=True):
        row[cell > 0] = (rankdata(cell[cell > 0]) - 1) / ((cell > 0).sum() - 1)
    in_a = (tiny_adata.obs["label"] == "A").to_numpy()
    control = tiny_adata.varm["cellfm_attention_expression"]
    assert control.dtype == np.float32
    np.testing.assert_allclose(control[:300, 0], np.nanmean(ranks[in_a], axis=0), atol=1e-5)
    np.testing.assert_allclose(control[:300, 1], np.nanmean(ranks[~in_a], axis=0), atol=1e-5)
    assert np.isnan(tiny_adata.varm["cellfm_attention_GENE4_expression"][4]).all()
    record = tiny_adata.uns["cellfm"]["cellfm_attention"]
    table = record["expression_correlation"].set_index(["reader", "group"])
    assert list(table.index) == [("CLS", "A"), ("CLS", "B"), ("GENE4", "A"), ("GENE4", "B")]
    scores = tiny_adata.varm["cellfm_attention"][:300, 0], control[:300, 0]
    assert table.loc[("CLS", "A"), "spearman"] == pytest.approx(spearmanr(*scores).statistic, abs=1e-6)
    tops = [set(np.argsort(-one)[:20]) for one in scores]
    assert table.loc[("CLS", "A"), "n_shared"] == len(tops[0] & tops[1])


def with_closed_layer(model, layer, seed):
    """The model with a gate of zero in one layer, and other noise for its queries and keys."""
    weights, generator = dict(model.weights), np.random.default_rng(seed)
    for name in ("query", "key", "gate"):
        key = f"backbone.layers.{layer}.attention.{name}.weight"
        drawn = generator.standard_normal(weights[key].shape).astype(np.float32)
        weights[key] = np.zeros_like(drawn) if name == "gate" else drawn
    return CellFM(model.config, model.vocab, weights, name="closed")


TOOLS = {
    "attention": {"groupby": "label"},
    "rank_lncrnas": {"groupby": "label", "biotypes": "kind", "n_permutations": 9},
    "attention_partners": {"genes": ["GENE9"]},
    "gene_contributions": {"groupby": "label"},
}


@pytest.mark.parametrize("closed", [0, 1])
@pytest.mark.parametrize("tool", TOOLS)
def test_inactive_layers_are_not_read(with_lncrnas, tiny_model, tool, closed):
    call, options = getattr(cf.tl, tool), TOOLS[tool]
    one, other = (
        call(with_lncrnas, with_closed_layer(tiny_model, closed, seed), copy=True, **options) for seed in (0, 1)
    )
    for key in one.varm:
        np.testing.assert_array_equal(one.varm[key], other.varm[key])
    for key in set(one.uns) - {"cellfm"}:
        pd.testing.assert_frame_equal(one.uns[key], other.uns[key])
    (record,) = one.uns["cellfm"].values()
    assert record["attention_layer"] == 1 - closed
    assert list(record["active_layers"]) == [1 - closed]
    for layer in (closed, closed - 2):
        with pytest.raises(InputError, match=rf"Layer {closed} of 'closed' is inactive.*Active layers: {1 - closed} "):
            call(with_lncrnas, with_closed_layer(tiny_model, closed, 0), attention_layer=layer, **options)
    none = with_closed_layer(with_closed_layer(tiny_model, 0, 0), 1, 0)
    with pytest.raises(InputError, match="all of its 2 layers are inactive"):
        call(with_lncrnas, none, **options)
    assert not with_lncrnas.varm
    assert not with_lncrnas.uns


def test_a_layer_that_adds_next_to_nothing_is_read_with_a_warning(tiny_adata, tiny_model):
    weights = dict(tiny_model.weights)
    weights["backbone.layers.1.attention.gate.weight"] = weights["backbone.layers.1.attention.gate.weight"] * 1e-4
    model = CellFM(tiny_model.config, tiny_model.vocab, weights, name="tuned")
    cf.tl.attention(tiny_adata, model)
    assert tiny_adata.uns["cellfm"]["cellfm_attention"]["attention_layer"] == 0
    with pytest.warns(DataWarning, match="layer 1 of 'tuned' adds 0.0001 times as much as that of layer 0"):
        cf.tl.attention(tiny_adata, model, attention_layer=1)


@pytest.mark.parametrize("tool", TOOLS)
def test_what_is_written_can_be_stored(with_lncrnas, tiny_model, tool, tmp_path):
    getattr(cf.tl, tool)(with_lncrnas, tiny_model, **TOOLS[tool])
    with_lncrnas.write_h5ad(tmp_path / "cells.h5ad")
    stored = read_h5ad(tmp_path / "cells.h5ad").uns["cellfm"]
    (record,) = stored.values()
    assert record["attention_layer"] == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"groupby": "type"}, MissingKeyError, "groupby='type' is not a column of obs. Columns: label, batch"),
        ({"readers": ["NOPE"]}, MissingKeyError, "The reader 'NOPE' is not in var_names"),
        ({"readers": ["UNKNOWN1"]}, InputError, "does not know the reader 'UNKNOWN1'"),
        ({"attention_layer": 5}, InputError, "must be from -2 to 1, not 5"),
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


def test_lncrnas_by_contribution_are_those_of_gene_contributions(with_lncrnas, tiny_model):
    options = {"groupby": "label", "biotypes": "kind", "n_permutations": 5, "copy": True}
    expected = cf.tl.rank_lncrnas(with_lncrnas, tiny_model, **options).uns["cellfm_lncrnas"]
    table = cf.tl.rank_lncrnas(with_lncrnas, tiny_model, by="contribution", **options).uns["cellfm_lncrnas"]
    assert (table.groupby("group", sort=False)["contribution"].diff().dropna() <= 0).all()
    cf.tl.gene_contributions(with_lncrnas, tiny_model, groupby="label")
    pairs = ["group", "gene"]
    found = with_lncrnas.uns["cellfm_contributions"].set_index(pairs)["contribution"]
    np.testing.assert_allclose(table["contribution"], found.loc[pd.MultiIndex.from_frame(table[pairs])], atol=1e-6)
    both = (one.drop(columns="contribution", errors="ignore").sort_values(pairs) for one in (table, expected))
    pd.testing.assert_frame_equal(*(one.reset_index(drop=True) for one in both))


def test_controls_of_lncrnas_are_adjusted_over_the_same_tests(with_lncrnas, tiny_model):
    options = {"groupby": "label", "biotypes": "kind", "n_permutations": 49, "min_frac": 0.0}
    cf.tl.rank_lncrnas(with_lncrnas, tiny_model, min_cells=20, **options)
    table, record = with_lncrnas.uns["cellfm_lncrnas"], with_lncrnas.uns["cellfm"]["cellfm_lncrnas"]
    tested = np.flatnonzero((with_lncrnas.X[:, :30] > 0).sum(0) >= 20)
    assert record["n_tested"] == len(table) == 2 * len(tested)
    for kind in ("", "expression_"):
        np.testing.assert_allclose(table[f"{kind}p_adjusted"], false_discovery_control(table[f"{kind}p_value"]))
    counts = with_lncrnas.X
    values = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))[:, tested]
    in_a = (with_lncrnas.obs["label"] == "A").to_numpy()
    one = [mannwhitneyu(x[in_a], x[~in_a], use_continuity=False, method="asymptotic").pvalue for x in values.T]
    naive = dict(zip(with_lncrnas.var_names[tested], false_discovery_control(np.tile(one, 2)), strict=False))
    # scanpy corrects neither for ties nor for continuity
    np.testing.assert_allclose(table["wilcoxon_p_adjusted"], table["gene"].map(naive), rtol=0.1, atol=0.02)
    assert record["expression_correlation"] == pytest.approx(
        spearmanr(table["specificity"], table["expression_specificity"]).statistic
    )


def test_where_no_lncrna_is_tested_the_table_is_empty(with_lncrnas, tiny_model):
    few = with_lncrnas[:6].copy()
    with pytest.warns(DataWarning, match="None of 30 lncRNAs is expressed by 10 cells or more"):
        cf.tl.rank_lncrnas(few, tiny_model, groupby="label", biotypes="kind", n_permutations=9)
    assert few.uns["cellfm_lncrnas"].shape[0] == 0
    cf.tl.rank_lncrnas(with_lncrnas, tiny_model, groupby="label", biotypes="kind", n_permutations=9)
    assert list(few.uns["cellfm_lncrnas"]) == list(with_lncrnas.uns["cellfm_lncrnas"])


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
        ({"biotypes": "kind", "by": "rank"}, InputError, "by must be 'attention' or 'contribution', not 'rank'"),
        ({"biotypes": "kind", "min_frac": 2}, InputError, "min_frac must be a number from 0 to 1, not 2"),
        ({"biotypes": "kind", "layer": "raw"}, InputError, r"call adata\.raw\.to_adata\(\) first"),
    ):
        with pytest.raises(error, match=message):
            cf.tl.rank_lncrnas(with_lncrnas, tiny_model, groupby="label", **options)
    with pytest.raises(InputError, match="has 1 group"):
        cf.tl.rank_lncrnas(with_lncrnas[with_lncrnas.obs["label"] == "A"].copy(), tiny_model, groupby="label")


def test_attention_partners_come_from_control_cells(tiny_adata, tiny_model):
    without = tiny_adata[:, tiny_adata.var_names != "GENE9"].copy()
    cf.tl.attention_partners(
        without, tiny_model, genes=["GENE9", "ENSG00000000003"], groupby="label", control="A", n_genes=7
    )
    table = without.uns["cellfm_attention_partners"]
    assert table["chosen_gene"].value_counts().to_dict() == {"GENE9": 7, "ENSG00000000003": 7}
    assert not (table["gene"] == "GENE3").where(table["chosen_gene"] == "ENSG00000000003", False).any()
    assert (table.groupby("chosen_gene")["score"].diff().dropna() <= 0).all()
    correlation = without.uns["cellfm"]["cellfm_attention_partners"]["expression_correlation"]
    assert list(correlation["chosen_gene"]) == ["GENE9", "ENSG00000000003"]
    assert (
        correlation["n_shared"].tolist()
        == (table["expression_rank"] <= 7).groupby(table["chosen_gene"], sort=False).sum().tolist()
    )
    controls = without[without.obs["label"] == "A"].copy()
    cf.tl.attention_partners(controls, tiny_model, genes=["GENE9", "ENSG00000000003"], n_genes=7)
    pd.testing.assert_frame_equal(controls.uns["cellfm_attention_partners"], table)
    cf.tl.attention_partners(controls, tiny_model, genes="GENE9", n_genes=7, reads=False, key_added="read_by")
    assert list(controls.uns["read_by"]["gene"]) != list(table["gene"][:7])


def test_attention_partners_refuses(tiny_adata, tiny_model):
    with pytest.raises(MissingKeyError, match="does not know 1 of the genes: NOPE"):
        cf.tl.attention_partners(tiny_adata, tiny_model, genes=["GENE1", "NOPE"])
    with pytest.raises(InputError, match="genes= is empty"):
        cf.tl.attention_partners(tiny_adata, tiny_model, genes=[])
    with pytest.raises(InputError, match=r"call adata\.raw\.to_adata\(\) first"):
        cf.tl.attention_partners(tiny_adata, tiny_model, genes=["GENE1"], layer="raw")
    with pytest.raises(InputError, match="groupby= and control= together"):
        cf.tl.attention_partners(tiny_adata, tiny_model, genes=["GENE1"], groupby="label")
    with pytest.raises(InputError, match=r"has no 'ctrl'; available: A, B"):
        cf.tl.attention_partners(tiny_adata, tiny_model, genes=["GENE1"], groupby="label", control="ctrl")


def test_plots_draw_what_is_stored(with_lncrnas, tiny_model):
    with pytest.raises(MissingKeyError, match="call cf.tl.attention"):
        cf.pl.attention(with_lncrnas)
    cf.tl.attention(with_lncrnas, tiny_model, groupby="label", readers=["GENE4"])
    ax = cf.pl.attention(with_lncrnas, n_genes=3)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["A", "B", "A", "B"]
    assert len(ax.get_yticklabels()) >= 3
    assert {text.get_text() for text in ax.texts} == {"read by CLS,\nlayer 1 of tiny", "by expression alone"}
    values = ax.images[0].get_array()
    first = with_lncrnas.var_names.get_loc(ax.get_yticklabels()[0].get_text())
    for places, key in ((slice(0, 2), "cellfm_attention"), (slice(3, 5), "cellfm_attention_expression")):
        row = with_lncrnas.varm[key][first]
        np.testing.assert_allclose(values[0, places], row - row.mean(), atol=1e-6)
    genes = ["GENE5", "GENE6"]
    ax = cf.pl.attention(with_lncrnas, key="cellfm_attention_GENE4", genes=genes, expression=False, relative=False)
    assert [text.get_text() for text in ax.texts] == ["read by GENE4,\nlayer 1 of tiny"]
    np.testing.assert_allclose(ax.images[0].get_array(), with_lncrnas.varm["cellfm_attention_GENE4"][5:7])
    with pytest.raises(MissingKeyError, match="1 gene has no scores: GENE4"):
        cf.pl.attention(with_lncrnas, key="cellfm_attention_GENE4", genes=["GENE4"])
    with pytest.raises(MissingKeyError, match=r"call cf\.tl\.rank_lncrnas"):
        cf.pl.lncrnas(with_lncrnas)
    cf.tl.rank_lncrnas(with_lncrnas, tiny_model, groupby="label", biotypes="kind", n_permutations=99)
    ax = cf.pl.lncrnas(with_lncrnas)
    assert "GENE0" in {label.get_text() for label in ax.get_xticklabels()}
    assert ax.get_title() == "read by CLS, layer 1 of tiny"
    table = with_lncrnas.uns["cellfm_lncrnas"]
    shown = table[table["gene"].isin([label.get_text() for label in ax.get_xticklabels()])]
    for half, column in zip(ax.collections[:2], ("specificity", "expression_specificity"), strict=True):
        np.testing.assert_allclose(half.get_array(), shown[column])
    with pytest.warns(DataWarning, match=r"up to 1e-09 \(smallest: 0.0\d+\); the most specific"):
        few = cf.pl.lncrnas(with_lncrnas, alpha=1e-9)
    assert "GENE0" in {label.get_text() for label in few.get_xticklabels()}
    assert "none with an adjusted p up to 1e-09" in few.get_title()


def message_of(ax):
    """The line of text on axes that hold nothing else."""
    assert not ax.collections
    assert not ax.images
    (text,) = ax.texts
    return text.get_text()


def test_plots_of_nothing_say_so(with_lncrnas, tiny_model, tmp_path):
    cf.tl.rank_lncrnas(with_lncrnas, tiny_model, groupby="label", biotypes="kind", n_permutations=9)
    table = with_lncrnas.uns["cellfm_lncrnas"]
    with_lncrnas.uns["cellfm_lncrnas"] = table.assign(specificity=0.0)
    ax = cf.pl.lncrnas(with_lncrnas, save=tmp_path / "none.png")
    assert message_of(ax) == "No lncRNA is more specific to one group than to the others."
    assert (tmp_path / "none.png").stat().st_size > 1000
    with_lncrnas.uns["cellfm_lncrnas"] = table[:0]
    assert message_of(cf.pl.lncrnas(with_lncrnas)) == "No lncRNA is listed: too few cells express one."
    cf.tl.attention(with_lncrnas, tiny_model, groupby="label", min_cells=1000)
    assert message_of(cf.pl.attention(with_lncrnas)).startswith("No gene has a score in all 2 groups.")
