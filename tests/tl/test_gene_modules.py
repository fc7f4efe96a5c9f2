"""The tools of gene modules on small data: what they write, what they find, what they refuse."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.stats import false_discovery_control

import cellfm as cf
from cellfm.errors import DataWarning, InputError, MissingKeyError

SETS = {"first": [f"GENE{i}" for i in range(100)], "second": [f"GENE{i}" for i in range(150, 200)]}


@pytest.fixture
def planted() -> AnnData:
    """Genes of three kinds: their embeddings lie in clouds, and those of the first kind are expressed together."""
    generator = np.random.default_rng(0)
    kind = np.repeat([0, 1, 2], 100)
    active = generator.random(60) < 0.5
    mean = np.where((kind == 0)[None] & active[:, None], 6.0, 1.0)
    adata = AnnData(generator.poisson(mean).astype(np.float32))
    adata.var_names = [f"GENE{i}" for i in range(300)]
    adata.varm["cellfm"] = (np.eye(8)[kind] + 0.2 * generator.standard_normal((300, 8))).astype(np.float32)
    return adata


def test_modules_are_the_planted_ones(planted):
    cf.tl.gene_modules(planted, resolution=[0.3, 5.0], umap=True)
    modules = planted.var["cellfm_module"]
    assert modules.cat.categories.tolist() == ["0", "1", "2"]
    for start in (0, 100, 200):
        assert modules.iloc[start : start + 100].nunique() == 1
    at_all = planted.varm["cellfm_modules"]
    assert at_all.shape == (300, 2)
    assert at_all[:, 1].max() > at_all[:, 0].max()
    graph = planted.varp["cellfm_neighbors"]
    assert graph.dtype == np.float32
    assert abs(graph - graph.T).max() == 0
    assert list(planted.uns["cellfm"]["cellfm_module"]["resolutions"]) == [0.3, 5.0]
    assert np.isfinite(planted.varm["cellfm_modules_umap"]).all()


def test_both_implementations_of_leiden_find_the_planted_modules(planted):
    by_igraph, by_leidenalg = (
        cf.tl.gene_modules(planted, resolution=0.3, flavor=flavor, copy=True) for flavor in ("igraph", "leidenalg")
    )
    pd.testing.assert_series_equal(by_igraph.var["cellfm_module"], by_leidenalg.var["cellfm_module"])
    with pytest.raises(InputError, match="flavor must be 'igraph' or 'leidenalg', not 'louvain'"):
        cf.tl.gene_modules(planted, flavor="louvain")


def test_coexpression_joins_genes_that_are_expressed_together(planted):
    cf.tl.gene_modules(planted, source="coexpression", resolution=0.5, key_added="together", n_neighbors=10)
    modules = planted.var["together"]
    assert modules.iloc[:100].value_counts(normalize=True).iloc[0] > 0.9
    assert {"togethers"} <= set(planted.varm)
    assert {"together_neighbors"} <= set(planted.varp)


def test_genes_may_be_chosen_and_the_others_belong_to_nothing(planted):
    planted.var["chosen"] = np.arange(300) < 200
    cf.tl.gene_modules(planted, resolution=0.3, genes="chosen")
    assert planted.var["cellfm_module"].isna()[200:].all()
    by_name = cf.tl.gene_modules(planted, resolution=0.3, genes=list(planted.var_names[:200]), copy=True)
    pd.testing.assert_series_equal(by_name.var["cellfm_module"], planted.var["cellfm_module"])


def test_enrichment_is_written_and_survives_a_file(planted, tmp_path):
    cf.tl.gene_modules(planted, resolution=[0.3, 5.0])
    cf.tl.enrich_modules(planted, SETS)
    table = planted.uns["cellfm_enrichment"]
    assert table["term"].iloc[0] == "first"
    assert table["overlap"].iloc[0] == 100
    record = planted.uns["cellfm"]["cellfm_enrichment"]
    sizes = {"n_modules": 3, "n_sets": 2, "n_background": 300, "n_tests": 6, "modules": "cellfm_module"}
    assert sizes.items() <= record.items()
    assert len(table) < 6
    np.testing.assert_allclose(
        table["p_adjusted"], false_discovery_control([*table["p_value"], *[1] * (6 - len(table))])[: len(table)]
    )
    few = cf.tl.enrich_modules(planted, SETS, min_set_genes=60, copy=True)
    assert set(few.uns["cellfm_enrichment"]["term"]) == {"first"}
    finer = cf.tl.enrich_modules(planted, SETS, resolution=5.0, copy=True).uns["cellfm_enrichment"]
    assert len(finer) > len(table)
    planted.write_h5ad(tmp_path / "cells.h5ad")


def test_comparison_counts_terms_by_resolution(planted):
    planted.varm["noise"] = np.random.default_rng(1).standard_normal((300, 8)).astype(np.float32)
    cf.tl.compare_modules(planted, SETS, resolutions=[0.3, 2.0], embedding_keys=["cellfm", "noise"], n_random=2)
    table = planted.uns["cellfm_module_comparison"]
    assert set(table["source"]) == {"cellfm", "noise", "co-expression", "random"}
    assert (table["n_tests"] == 2 * table["n_modules"]).all()
    assert planted.uns["cellfm"]["cellfm_module_comparison"]["n_sets"] == 2
    found = table.groupby("source")["n_enriched"].mean()
    assert found["cellfm"] == 2
    assert found["co-expression"] >= 1
    assert found["random"] == 0
    first = table[table["source"] == "cellfm"].iloc[0]
    assert first["n_shared"] + first["n_unique"] == first["n_enriched"]


def test_network_keeps_the_strongest_relations(planted):
    genes = ["GENE0", "GENE1", "GENE2", "GENE100", "GENE101", "GENE102", "NOPE"]
    with pytest.warns(DataWarning, match="1 of 7 genes has no embedding and is left out: NOPE"):
        cf.tl.gene_network(planted, genes, n_neighbors=2)
    table = planted.uns["cellfm_gene_network"]
    kind = {gene: int(gene[4:]) // 100 for gene in genes[:-1]}
    assert (table["gene"].map(kind) == table["other"].map(kind)).all()
    rows = planted.varm["cellfm"][[0, 1]]
    pair = table[(table["gene"] == "GENE0") & (table["other"] == "GENE1")]["cellfm"].iloc[0]
    assert pair == pytest.approx(rows[0] @ rows[1] / np.prod(np.linalg.norm(rows, axis=1)), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"resolution": 0}, InputError, "resolution must be a number above 0"),
        ({"resolution": []}, InputError, "resolution= is empty"),
        ({"source": "magic"}, InputError, "source must be"),
        ({"n_neighbors": 0}, InputError, "n_neighbors must be a whole number of 1 or more"),
        ({"min_cells": 1000}, InputError, "0 of 300 genes are left to compare; at least 50"),
        ({"genes": ["GENE1", "NOPE"]}, MissingKeyError, "1 gene is not in var_names: NOPE"),
        ({"genes": "hvg"}, MissingKeyError, "No boolean column 'hvg' in var"),
        ({"embedding_key": "other"}, MissingKeyError, r"No varm\['other'\]; available: cellfm"),
    ],
)
def test_bad_options_are_refused(planted, options, error, message):
    with pytest.raises(error, match=message):
        cf.tl.gene_modules(planted, **options)
    assert "cellfm_module" not in planted.var


def test_what_was_not_done_before_is_said(planted):
    with pytest.raises(MissingKeyError, match=r"call cf.tl.gene_modules\(adata\) first"):
        cf.tl.enrich_modules(planted, SETS)
    cf.tl.gene_modules(planted, resolution=0.3)
    with pytest.raises(MissingKeyError, match=r"No resolution 7; available: 0.3"):
        cf.tl.enrich_modules(planted, SETS, resolution=7)
    with pytest.raises(InputError, match="alpha must be"):
        cf.tl.enrich_modules(planted, SETS, alpha=5)
    with pytest.raises(InputError, match="have an embedding"):
        cf.tl.gene_network(planted, ["GENE1", "NOPE"])
    with pytest.raises(MissingKeyError, match=r"No varm\['other'\]; available: cellfm"):
        cf.tl.gene_network(planted, ["GENE1", "GENE2"], embedding_keys=["other"])
    with pytest.raises(InputError, match=r"resolutions must be a number above 0, not 0"):
        cf.tl.compare_modules(planted, SETS, resolutions=[0])
    with pytest.raises(InputError, match="embedding_keys is empty"):
        cf.tl.compare_modules(planted, SETS, embedding_keys=[])


def test_sets_of_other_genes_and_modules_that_are_too_small_are_told(planted):
    with pytest.warns(DataWarning, match="No module has 1000 genes at resolution 1: use a lower resolution"):
        cf.tl.gene_modules(planted, resolution=1, min_genes=1000)
    with pytest.raises(InputError, match="no module at this resolution to score"):
        cf.tl.score_modules(planted)
    cf.tl.gene_modules(planted, resolution=0.3)
    with pytest.warns(DataWarning, match="Only 1 of 3 gene sets share genes with the 300 of the graph"):
        cf.tl.enrich_modules(planted, {"first": SETS["first"], "b": ["B"], "c": ["C"]})


def test_plots_draw_what_is_stored(planted, tmp_path):
    with pytest.raises(MissingKeyError, match="umap=True"):
        cf.pl.gene_modules(planted)
    for name, tool in (
        ("enrichment", "enrich_modules"),
        ("gene_network", "gene_network"),
        ("module_comparison", "compare_modules"),
    ):
        with pytest.raises(MissingKeyError, match=rf"call cf\.tl\.{tool}\(adata, \w+\) first"):
            getattr(cf.pl, name)(planted)
    cf.tl.gene_modules(planted, resolution=0.3, umap=True)
    cf.tl.enrich_modules(planted, SETS)
    cf.tl.compare_modules(planted, SETS, resolutions=[0.3, 2.0])
    planted.varm["again"] = planted.varm["cellfm"]
    cf.tl.gene_network(planted, list(planted.var_names[:20]), embedding_keys=["cellfm", "again"])
    ax = cf.pl.gene_modules(planted, save=tmp_path / "modules.png")
    assert ax.get_legend().get_texts()[0].get_text() == "0: first"
    ax = cf.pl.enrichment(planted)
    assert {label.get_text() for label in ax.get_yticklabels()} == set(SETS)
    ax = cf.pl.module_comparison(planted)
    table = planted.uns["cellfm_module_comparison"]
    none = (table[table["source"] == "random"]["n_enriched"] == 0).mean()
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["cellfm", f"random (10 draws, {none:.0%} without a term)", "co-expression"]
    assert len(cf.pl.gene_network(planted)) == 2
    _, ax = plt.subplots()
    with pytest.raises(InputError, match="ax= takes one embedding, the table has 2"):
        cf.pl.gene_network(planted, ax=ax)
    del planted.uns["cellfm_gene_network"]["again"]
    assert cf.pl.gene_network(planted, ax=ax) is ax
    assert (tmp_path / "modules.png").stat().st_size > 1000


def message_of(ax):
    """The line of text on axes that hold nothing else."""
    assert not ax.collections
    assert not ax.patches
    (text,) = ax.texts
    return text.get_text()


def test_plots_of_nothing_say_so(planted, tmp_path):
    cf.tl.gene_modules(planted, resolution=0.3, umap=True)
    cf.tl.enrich_modules(planted, SETS)
    ax = cf.pl.enrichment(planted, alpha=1e-300, save=tmp_path / "none.png")
    assert message_of(ax) == "No term has an adjusted p-value of 1e-300 or less."
    assert message_of(cf.pl.enrichment(planted, modules=["77"])) == "No term has an adjusted p-value of 0.05 or less."
    opposite = np.eye(3) - 0.4  # no two have a cosine above 0
    planted.varm["apart"] = np.zeros((300, 3), np.float32)
    planted.varm["apart"][:3] = opposite
    cf.tl.gene_network(planted, ["GENE0", "GENE1", "GENE2"], embedding_keys=["apart"])
    assert message_of(cf.pl.gene_network(planted)) == "No two of the genes have a cosine above 0."
    scores = pd.DataFrame(columns=["features", "classifier", "repeat", "fold", "auroc"])
    assert message_of(cf.pl.gene_function(scores)) == "No fold has a score (auroc)."
    with pytest.warns(DataWarning, match="No module has 1000 genes"):
        cf.tl.gene_modules(planted, resolution=1, min_genes=1000, umap=True)
    assert cf.pl.gene_modules(planted).get_title() == "300 genes, none in a module"
    cf.tl.enrich_modules(planted, SETS)
    assert len(planted.uns["cellfm_enrichment"]) == 0
    assert planted.uns["cellfm"]["cellfm_enrichment"]["n_tests"] == 0
    assert message_of(cf.pl.enrichment(planted)) == "No term has an adjusted p-value of 0.05 or less."


def test_points_are_of_scanpy_s_size_and_not_too_large(planted):
    cf.tl.gene_modules(planted, resolution=0.3, umap=True)
    assert {size for dots in cf.pl.gene_modules(planted).collections for size in dots.get_sizes()} == {40.0, 20.0}


def test_cells_that_express_a_module_score_high(planted):
    cf.tl.gene_modules(planted, resolution=0.3)
    cf.tl.score_modules(planted, n_modules=3)
    module = int(planted.var["cellfm_module"].iloc[0])
    scores = planted.obsm["cellfm_module_scores"]
    assert scores.shape == (60, 3)
    active = planted.X[:, :100].mean(1) > 3
    assert scores[active, module].min() > scores[~active, module].max()
