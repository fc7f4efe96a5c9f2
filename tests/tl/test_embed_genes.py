"""`cf.tl.embed_genes` and `cf.get.gene_embeddings`: what the numbers are, and what is refused."""

import numpy as np
import pytest
import scipy.sparse as sp

import cellfm as cf
from cellfm.cells.input import read_input
from cellfm.errors import DataWarning, InputError, MissingKeyError


def test_static_embeddings_are_rows_of_the_gene_table(tiny_adata, tiny_model):
    cf.tl.embed_genes(tiny_adata, tiny_model)
    found = tiny_adata.varm["cellfm"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:300], tiny_model.weights["embed.gene"][1:301])
    assert np.isnan(found[300:]).all()
    assert tiny_adata.uns["cellfm"]["cellfm"]["kind"] == "static"


def without(adata, gene: int, cells: slice) -> None:
    """Let cells not express a gene."""
    counts = adata.X.toarray()
    counts[cells, gene] = 0
    adata.X = sp.csr_matrix(counts)


def contextual_one_by_one(adata, model, cells: np.ndarray) -> np.ndarray:
    """Means of token outputs, the slow way."""
    total, number = np.zeros((adata.n_vars, model.config.d_model)), np.zeros(adata.n_vars)
    for i in np.flatnonzero(cells):
        input_ = read_input(adata[i : i + 1].copy(), model.vocab)
        ((_, batch),) = input_.tokens(model.config.max_genes, 0)
        places = batch.gene_ids - 1  # the table has the genes of the vocabulary in their order
        total[places] += model.encode(batch, outputs=("tokens",)).tokens
        number[places] += 1
    with np.errstate(invalid="ignore"):
        return total / number[:, None]


def test_contextual_embeddings_are_means_over_the_cells_that_express_a_gene(tiny_adata, tiny_model):
    tiny_adata = tiny_adata[:12].copy()
    without(tiny_adata, 5, slice(None))
    cf.tl.embed_genes(tiny_adata, tiny_model, kind="contextual", groupby="label", batch_size=2)
    of_a = (tiny_adata.obs["label"] == "A").to_numpy()
    for key, cells in (("cellfm", np.ones(12, bool)), ("cellfm_A", of_a), ("cellfm_B", ~of_a)):
        np.testing.assert_allclose(
            tiny_adata.varm[key], contextual_one_by_one(tiny_adata, tiny_model, cells), atol=1e-5, rtol=0
        )
    assert np.isnan(tiny_adata.varm["cellfm"][5]).all()
    assert list(tiny_adata.uns["cellfm"]["cellfm"]["groups"]) == ["A", "B"]


def test_cells_without_a_group_count_in_the_whole_only(tiny_adata, tiny_model):
    whole = cf.tl.embed_genes(tiny_adata, tiny_model, kind="contextual", copy=True).varm["cellfm"]
    tiny_adata.obs.loc[tiny_adata.obs_names[:6], "label"] = np.nan
    with pytest.warns(DataWarning, match="6 of 40 cells have no value"):
        cf.tl.embed_genes(tiny_adata, tiny_model, kind="contextual", groupby="label")
    np.testing.assert_allclose(tiny_adata.varm["cellfm"], whole, atol=1e-5, rtol=0)
    assert np.abs(tiny_adata.varm["cellfm_A"][:300] - whole[:300]).max() > 1e-4


def test_rare_genes_may_be_left_out(tiny_adata, tiny_model):
    without(tiny_adata, 0, slice(3, None))
    cf.tl.embed_genes(tiny_adata, tiny_model, kind="contextual", min_cells=5)
    assert np.isnan(tiny_adata.varm["cellfm"][0]).all()


def test_groups_with_slashes_can_be_written(tiny_adata, tiny_model, tmp_path):
    tiny_adata.obs["label"] = tiny_adata.obs["label"].cat.rename_categories({"A": "CD4+/CD25"})
    cf.tl.embed_genes(tiny_adata, tiny_model, kind="contextual", groupby="label")
    tiny_adata.write_h5ad(tmp_path / "cells.h5ad")
    assert "cellfm_CD4+|CD25" in tiny_adata.varm


def test_the_table_has_gene_names(tiny_adata, tiny_model):
    cf.tl.embed_genes(tiny_adata, tiny_model)
    table = cf.get.gene_embeddings(tiny_adata)
    assert table.shape == (300, 16)
    np.testing.assert_array_equal(table.loc["GENE7"], tiny_adata.varm["cellfm"][7])
    assert list(cf.get.gene_embeddings(tiny_adata, genes=["GENE3", "UNKNOWN1"]).index) == ["GENE3"]
    with pytest.raises(MissingKeyError, match="1 gene is not in var_names: NOPE"):
        cf.get.gene_embeddings(tiny_adata, genes=["NOPE"])
    with pytest.raises(MissingKeyError, match=r"No varm\['other'\]; available: cellfm"):
        cf.get.gene_embeddings(tiny_adata, key="other")


def test_what_cannot_be_done_is_refused(tiny_adata, tiny_model):
    with pytest.raises(InputError, match="kind must be"):
        cf.tl.embed_genes(tiny_adata, tiny_model, kind="dynamic")
    with pytest.raises(InputError, match="needs kind='contextual'"):
        cf.tl.embed_genes(tiny_adata, tiny_model, groupby="label")
    with pytest.raises(MissingKeyError, match="groupby='type' is not a column of obs. Columns: label, batch"):
        cf.tl.embed_genes(tiny_adata, tiny_model, kind="contextual", groupby="type")
    tiny_adata.obs["one"] = "same"
    with pytest.raises(InputError, match="has 1 group"):
        cf.tl.embed_genes(tiny_adata, tiny_model, kind="contextual", groupby="one")
    tiny_adata.raw = tiny_adata.copy()
    with pytest.raises(InputError, match="to_adata"):
        cf.tl.embed_genes(tiny_adata, tiny_model, layer="raw")
    assert not tiny_adata.varm


def test_many_genes_without_embedding_are_said(tiny_adata, tiny_model):
    with pytest.warns(DataWarning, match="320 of .* genes have no embedding"):
        cf.tl.embed_genes(tiny_adata, tiny_model, kind="contextual", min_cells=1000)
