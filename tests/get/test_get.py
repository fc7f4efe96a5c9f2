"""`cf.get`: what tools stored comes back as tidy tables, and what is not there is named."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

import cellfm as cf
from cellfm.errors import MissingKeyError
from cellfm.model import CellFM

GENE_SETS = {"first": [f"GENE{i}" for i in range(40)], "others": [f"GENE{i}" for i in range(40, 80)]}


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
    assert "fingerprints" not in table


def test_a_modality_is_read_where_the_tool_wrote(tiny_adata: AnnData, tiny_model: CellFM):
    both = MuData({"rna": tiny_adata.copy()})
    cf.tl.attention_partners(both, tiny_model, genes=["GENE1", "GENE2"])
    assert set(cf.get.attention_partners(both, gene="GENE2")["perturbed"]) == {"GENE2"}


@pytest.mark.parametrize("name", [name for name in cf.get.__all__ if name != "runs"])
def test_results_that_are_not_there_are_asked_for(name: str, tiny_adata: AnnData):
    with pytest.raises(MissingKeyError, match=r"[Cc]all cf\.tl\.|No varm|no embedding"):
        getattr(cf.get, name)(tiny_adata)


def test_parts_that_are_not_there_are_listed(tiny_adata: AnnData, tiny_model: CellFM):
    cf.tl.attention_partners(tiny_adata, tiny_model, genes=["GENE1"])
    with pytest.raises(MissingKeyError, match="No perturbed 'GENE5'.*available: GENE1"):
        cf.get.attention_partners(tiny_adata, gene="GENE5")
