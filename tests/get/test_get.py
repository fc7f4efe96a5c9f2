"""`cf.get`: what tools stored comes back as tidy tables, and what is not there is named."""

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

import cellfm as cf
from cellfm.cells.outputs import run_record
from cellfm.errors import MissingKeyError
from cellfm.model import CellFM

GENE_SETS = {"first": [f"GENE{i}" for i in range(40)], "others": [f"GENE{i}" for i in range(40, 80)]}


def write_and_read(adata: AnnData, path: Path) -> AnnData:
    adata.write_h5ad(path)
    return ad.read_h5ad(path)


@pytest.fixture
def labelled(tiny_adata: AnnData, tiny_model: CellFM) -> AnnData:
    cf.tl.transfer_labels(tiny_adata, tiny_adata.copy(), model=tiny_model, labels_key="label")
    return tiny_adata


@pytest.mark.filterwarnings("ignore:The reference seems to be the query")
def test_labels_come_with_all_that_speaks_for_them(labelled: AnnData):
    table = cf.get.annotation(labelled, probabilities=True)
    assert list(table.index) == list(labelled.obs_names)
    assert (table["label"] == labelled.obs["cellfm_label"]).all()
    np.testing.assert_allclose(table[["A", "B"]].to_numpy(), labelled.obsm["cellfm_proba"])
    np.testing.assert_allclose(table[["A", "B"]].max(axis=1), table["confidence"])


def test_attention_is_one_row_for_each_gene_and_group(tiny_adata: AnnData, tiny_model: CellFM):
    cf.tl.attention(tiny_adata, tiny_model, groupby="label", readers=["GENE1"])
    for reader, key in ((None, "cellfm_attention"), ("GENE1", "cellfm_attention_GENE1")):
        table = cf.get.attention(tiny_adata, reader=reader)
        wide = table.pivot(index="gene", columns="group", values="score").reindex(tiny_adata.var_names)
        np.testing.assert_allclose(wide.to_numpy(), tiny_adata.varm[key])
        assert all(part["score"].is_monotonic_decreasing for _, part in table.groupby("group", observed=True))


def test_modules_and_enrichment_are_those_of_the_resolution(tiny_adata: AnnData, tiny_model: CellFM):
    cf.tl.embed_genes(tiny_adata, tiny_model)
    cf.tl.gene_modules(tiny_adata, resolution=[1.0, 5.0], min_genes=2)
    cf.tl.enrich_modules(tiny_adata, GENE_SETS)
    for resolution, column in ((None, 0), (5.0, 1)):
        table = cf.get.gene_modules(tiny_adata, resolution=resolution).set_index("gene")["module"]
        stored = pd.Series(tiny_adata.varm["cellfm_modules"][:, column], tiny_adata.var_names)
        assert table.sort_index().equals(stored[stored >= 0].sort_index().rename("module").rename_axis("gene"))
    whole = cf.get.enrichment(tiny_adata)
    assert (cf.get.enrichment(tiny_adata, alpha=0.5)["p_adjusted"] <= 0.5).all()
    first = whole["module"].iloc[0]
    assert set(cf.get.enrichment(tiny_adata, module=first)["module"]) == {first}


def test_runs_are_listed_with_their_facts(tiny_adata: AnnData, tiny_model: CellFM):
    assert cf.get.runs(tiny_adata).empty
    cf.tl.embed(tiny_adata, tiny_model)
    cf.tl.embed_genes(tiny_adata, tiny_model)
    table = cf.get.runs(tiny_adata)
    assert list(table.index) == ["X_cellfm", "cellfm"]
    assert set(table["weights_sha256"]) == {tiny_model.weights_hash}
    assert list(table["tool"]) == ["tl.embed", "tl.embed_genes"]
    assert list(table["slot"]) == ["obsm", "varm"]
    assert "fingerprints" not in table.loc["X_cellfm", "facts"]
    assert table.loc["cellfm", "options"]["kind"] == "static"


def test_the_newest_run_is_last_and_files_keep_this(tiny_adata: AnnData, tiny_model: CellFM, tmp_path: Path):
    cf.tl.embed_genes(tiny_adata, tiny_model, key_added="b")
    cf.tl.embed(tiny_adata, tiny_model, key_added="c")
    cf.tl.attention(tiny_adata, tiny_model, key_added="a", readers=["GENE1", "GENE2"])
    cf.tl.embed_genes(tiny_adata, tiny_model, key_added="b")
    table = cf.get.runs(tiny_adata)
    assert list(table.index) == ["c", "a", "b"]
    tiny_adata.write_h5ad(tmp_path / "cells.h5ad")
    read = cf.get.runs(ad.read_h5ad(tmp_path / "cells.h5ad"))
    assert list(read.index) == ["c", "a", "b"]
    assert list(read.loc["a", "options"]["readers"]) == ["GENE1", "GENE2"]


def test_runs_of_earlier_versions_have_the_same_columns(tiny_adata: AnnData):
    tiny_adata.uns["cellfm"] = {
        "X_cellfm": {"cellfm_version": "0.1.0", "model": "mini", "random_state": 3, "matrix": "adata.X"},
        "perturbation": {"cellfm_version": "0.1.0", "name": "80M"},
        "foreign": 1,
    }
    table = cf.get.runs(tiny_adata)
    assert list(table["model"]) == ["mini", "80M"]
    assert table.loc["X_cellfm", "facts"] == {"matrix": "adata.X"}
    assert table.loc["X_cellfm", "options"] == {}
    assert table.loc["X_cellfm", "random_state"] == 3


def test_results_of_the_same_name_keep_their_own_records(tiny_adata: AnnData, tiny_model: CellFM, tmp_path: Path):
    cf.tl.embed(tiny_adata, tiny_model, key_added="foo")
    cf.tl.embed_genes(tiny_adata, tiny_model, key_added="foo")
    cf.tl.gene_modules(tiny_adata, embedding_key="foo", key_added="foo", resolution=[1.0, 5.0], min_genes=2)
    for adata in (tiny_adata, write_and_read(tiny_adata, tmp_path / "cells.h5ad")):
        assert list(cf.get.runs(adata).index) == ["foo", "foo (varm)", "foo (var)"]
        assert run_record(adata, "foo", "obsm")["n_empty_cells"] == 0
        assert run_record(adata, "foo", "varm")["kind"] == "static"
        assert len(cf.get.gene_modules(adata, key="foo", resolution=5.0))
    cf.tl.embed(tiny_adata, tiny_model, key_added="foo")
    assert list(cf.get.runs(tiny_adata).index) == ["foo (varm)", "foo (var)", "foo"]


def test_a_record_without_a_slot_is_that_of_any_result_with_its_name(tiny_adata: AnnData, tiny_model: CellFM):
    cf.tl.attention(tiny_adata, tiny_model, groupby="label")
    for fact in ("slot", "run", "tool", "options"):
        del tiny_adata.uns["cellfm"]["cellfm_attention"][fact]
    assert len(cf.get.attention(tiny_adata))
    assert len(cf.pl.attention(tiny_adata).get_yticklabels())


@pytest.mark.parametrize("labels", [[1, 2] * 20, [True, False] * 20, pd.Categorical([1, 2] * 20)])
def test_labels_of_groups_may_be_numbers(labels: Any, tiny_adata: AnnData, tiny_model: CellFM):
    tiny_adata.obs["number"] = labels
    first, second = labels[0], labels[1]
    cf.tl.gene_contributions(tiny_adata, tiny_model, groupby="number", groups=first, reference=second)
    assert set(cf.get.gene_contributions(tiny_adata, group=first)["group"]) == {str(first)}
    cf.tl.attention_partners(tiny_adata, tiny_model, genes="GENE1", groupby="number", control=second)
    assert len(cf.get.attention_partners(tiny_adata))


def test_a_modality_is_read_where_the_tool_wrote(tiny_adata: AnnData, tiny_model: CellFM):
    both = MuData({"rna": tiny_adata.copy()})
    cf.tl.attention_partners(both, tiny_model, genes=["GENE1", "GENE2"])
    assert set(cf.get.attention_partners(both, gene="GENE2")["chosen_gene"]) == {"GENE2"}


def test_a_plot_reads_the_same_modality(tiny_adata: AnnData, tiny_model: CellFM):
    both = MuData({"cells": tiny_adata.copy()})
    cf.tl.attention(both, tiny_model, groupby="label", modality="cells")
    alone = cf.tl.attention(tiny_adata, tiny_model, groupby="label", copy=True)
    drawn = [cf.pl.attention(both, n_genes=3, modality="cells"), cf.pl.attention(alone, n_genes=3)]
    one, other = ([text.get_text() for text in ax.get_yticklabels()] for ax in drawn)
    assert one == other
    with pytest.raises(MissingKeyError, match="No modality 'rna'; available: cells"):
        cf.pl.attention(both)


def test_one_gene_is_a_list_of_one(tiny_adata: AnnData, tiny_model: CellFM):
    cf.tl.embed_genes(tiny_adata, tiny_model)
    assert list(cf.get.gene_embeddings(tiny_adata, genes="GENE3").index) == ["GENE3"]


@pytest.mark.parametrize("name", [name for name in cf.get.__all__ if name != "runs"])
def test_results_that_are_not_there_are_asked_for(name: str, tiny_adata: AnnData):
    with pytest.raises(MissingKeyError, match=r"[Cc]all cf\.tl\.|No varm|no embedding"):
        getattr(cf.get, name)(tiny_adata)


def test_parts_that_are_not_there_are_listed(tiny_adata: AnnData, tiny_model: CellFM):
    cf.tl.attention_partners(tiny_adata, tiny_model, genes=["GENE1"])
    with pytest.raises(MissingKeyError, match="No chosen_gene 'GENE5'.*available: GENE1"):
        cf.get.attention_partners(tiny_adata, gene="GENE5")


def test_partners_of_version_0_1_are_read(tiny_adata: AnnData):
    stored = pd.DataFrame({"perturbed": ["GENE1", "GENE2"], "gene": ["GENE3", "GENE4"], "score": [0.9, 0.8]})
    tiny_adata.uns["cellfm_perturbed_genes"] = stored
    table = cf.get.attention_partners(tiny_adata, gene="GENE2", key="cellfm_perturbed_genes")
    assert list(table["gene"]) == ["GENE4"]
    assert list(stored) == ["perturbed", "gene", "score"]
