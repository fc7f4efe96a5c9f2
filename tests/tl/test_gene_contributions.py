"""`cf.tl.gene_contributions` against loops over cells, and what it refuses; `cf.pl.gene_contributions`."""

import numpy as np
import pytest
from anndata import read_h5ad

import cellfm as cf
from cellfm.cells.input import read_input
from cellfm.cells.tokenize import TokenBatch
from cellfm.errors import InputError, MissingKeyError

KEY = "cellfm_contributions"


@pytest.fixture
def tokens(tiny_adata, tiny_vocab) -> TokenBatch:
    """The cells as the model sees them; every known gene has its own number."""
    ((_, batch),) = read_input(tiny_adata, tiny_vocab).tokens(2048, 0)
    return batch


def dense(batch, of_tokens):
    """(n_cells, 300): numbers of tokens by gene, 0 where it is not expressed."""
    found = np.zeros((batch.n_cells, 300))
    found[np.repeat(np.arange(batch.n_cells), batch.lengths), batch.gene_ids - 1] = of_tokens
    return found


def table_of(adata, group, key=KEY):
    table = adata.uns[key]
    return table[table["group"] == group].set_index("gene")


def in_a(adata):
    return (adata.obs["label"] == "A").to_numpy()


def test_means_by_gene_are_those_of_a_loop_and_add_up(tiny_adata, tiny_model, tokens):
    cf.tl.gene_contributions(tiny_adata, tiny_model, groupby="label")
    embedding = tiny_model.encode(tokens).cell
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    chosen = in_a(tiny_adata)
    direction = unit[chosen].mean(0) - unit[~chosen].mean(0)
    direction /= np.linalg.norm(direction)
    record = tiny_adata.uns["cellfm"][KEY]
    np.testing.assert_allclose(record["directions"], [direction, -direction], atol=1e-4)
    found = tiny_model.contributions(tokens, record["directions"])
    of_genes, expression = dense(tokens, found.genes[:, 0]), dense(tokens, tokens.values)
    table = table_of(tiny_adata, "A")
    genes = [f"GENE{i}" for i in range(300)]
    assert sorted(table.index) == sorted(genes)
    for column, expected in {
        "contribution": of_genes[chosen].mean(0),
        "reference_contribution": of_genes[~chosen].mean(0),
        "expression": expression[chosen].mean(0),
        "expression_specificity": expression[chosen].mean(0) - expression[~chosen].mean(0),
        "n_cells": (expression[chosen] > 0).sum(0),
    }.items():
        np.testing.assert_allclose(table.loc[genes, column], expected, atol=1e-5, err_msg=column)
    assert (table["contribution"].diff().dropna() <= 0).all()
    of_group = record["groups"].set_index("group").loc["A"]
    assert of_group["n_cells"] == chosen.sum()
    assert of_group["attention_output"] == pytest.approx(
        table["contribution"].sum() + of_group["cls_contribution"], abs=1e-5
    )


def test_deletion_is_the_embedding_with_the_token_minus_that_without(tiny_adata, tiny_model, tokens):
    cf.tl.gene_contributions(tiny_adata, tiny_model, groupby="label", n_deletions=2, deleted_genes=["GENE7"])
    direction = tiny_adata.uns["cellfm"][KEY]["directions"][1]
    table, moved = table_of(tiny_adata, "B"), []
    for i in np.flatnonzero(~in_a(tiny_adata)):
        ids, values = (x[tokens.indptr[i] : tokens.indptr[i + 1]] for x in (tokens.gene_ids, tokens.values))
        kept = ids != 8
        both = TokenBatch(
            np.cumsum([0, len(ids), kept.sum()]),
            np.concatenate((ids, ids[kept])),
            np.concatenate((values, values[kept])),
            np.ones(2, np.float32),
        )
        whole, without = tiny_model.encode(both).cell
        moved.append((whole - without) @ direction)
    assert table.loc["GENE7", "deletion"] == pytest.approx(np.mean(moved), abs=1e-5)
    assert set(table.index[table["deletion"].notna()]) == {*table.index[:2], "GENE7"}


def test_groups_references_and_directions(tiny_adata, tiny_model):
    label = tiny_adata.obs["label"].astype(str)
    label[:8] = "C"
    tiny_adata.obs["label"] = label
    cf.tl.gene_contributions(tiny_adata, tiny_model, groupby="label", groups="A", reference="B", key_added="one")
    pair = tiny_adata[label != "C"].copy()
    cf.tl.gene_contributions(pair, tiny_model, groupby="label", groups=["A"], key_added="two")
    columns = ["contribution", "reference_contribution", "expression_specificity"]
    one, two = table_of(tiny_adata, "A", "one")[columns], table_of(pair, "A", "two")[columns]
    np.testing.assert_allclose(one, two.loc[one.index], atol=1e-5)
    cf.tl.gene_contributions(tiny_adata, tiny_model, groupby="label", reference="B", key_added="all")
    assert list(tiny_adata.uns["all"]["group"].unique()) == ["A", "C"]
    direction = 7 * tiny_adata.uns["cellfm"]["one"]["directions"][0].astype(float)
    cells = tiny_adata[label == "A"].copy()
    cf.tl.gene_contributions(cells, tiny_model, direction=direction, min_cells=5)
    alone = table_of(cells, "all")
    np.testing.assert_allclose(alone["contribution"], one.loc[alone.index, "contribution"], atol=1e-5)
    assert alone["n_cells"].min() >= 5
    assert alone[["reference_contribution", "expression_specificity", "deletion"]].isna().all().all()


def test_what_is_written_can_be_stored_and_drawn(tiny_adata, tiny_model, tmp_path):
    with pytest.raises(MissingKeyError, match=r"call cf\.tl\.gene_contributions"):
        cf.pl.gene_contributions(tiny_adata)
    cf.tl.gene_contributions(tiny_adata, tiny_model, groupby="label", n_deletions=1)
    tiny_adata.write_h5ad(tmp_path / "cells.h5ad")
    stored = read_h5ad(tmp_path / "cells.h5ad")
    assert list(stored.uns[KEY]["gene"]) == list(tiny_adata.uns[KEY]["gene"])
    ax = cf.pl.gene_contributions(stored, n_genes=3)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["A", "B", "A", "B"]
    assert {text.get_text() for text in ax.texts} == {"contribution,\nlayer 1 of tiny", "specificity of expression"}
    genes = [label.get_text() for label in ax.get_yticklabels()]
    assert genes[:3] == list(table_of(stored, "A").index[:3])
    share = table_of(stored, "A")["contribution"]
    np.testing.assert_allclose(ax.images[0].get_array()[:, 0], share[genes] / share.abs().max())
    ax = cf.pl.gene_contributions(stored, genes=["GENE5"], expression=False)
    assert ax.images[0].get_array().shape == (1, 2)
    with pytest.raises(MissingKeyError, match="1 gene has no contributions: NOPE"):
        cf.pl.gene_contributions(stored, genes=["NOPE"])
    stored.uns[KEY] = stored.uns[KEY][:0]
    (text,) = cf.pl.gene_contributions(stored).texts
    assert text.get_text().startswith("No gene is listed")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, InputError, "Pass groupby=, a column of obs whose groups are compared, or direction=, a vector"),
        ({"groupby": "type"}, MissingKeyError, "groupby='type' is not a column of obs. Columns: label, batch"),
        ({"groupby": "label", "groups": ["D"]}, InputError, r"obs\['label'\] has no 'D'; available: A, B"),
        ({"groupby": "label", "reference": "D"}, InputError, r"obs\['label'\] has no 'D'; available: A, B"),
        ({"groupby": "label", "groups": ["A"], "reference": "A"}, InputError, "other than the reference"),
        ({"direction": np.ones(16), "groups": ["A"]}, InputError, "Without groupby= there are no groups"),
        ({"direction": np.ones(3)}, InputError, r"must be 16 finite numbers, not all 0; its shape is \(3,\)"),
        ({"direction": np.zeros(16)}, InputError, "not all 0"),
        ({"groupby": "label", "n_deletions": -1}, InputError, "n_deletions must be a whole number of 0 or more"),
        ({"groupby": "label", "deleted_genes": ["NOPE"]}, MissingKeyError, "'NOPE' of deleted_genes= is not in var"),
        ({"groupby": "label", "deleted_genes": ["UNKNOWN1"]}, InputError, "does not know the gene 'UNKNOWN1'"),
        ({"groupby": "label", "layer": "raw"}, InputError, "to_adata"),
    ],
)
def test_refusals_come_before_the_network_runs(tiny_adata, tiny_model, monkeypatch, options, error, message):
    monkeypatch.setattr(cf.model.CellFM, "_encoder", None)
    with pytest.raises(error, match=message):
        cf.tl.gene_contributions(tiny_adata, tiny_model, **options)
    assert not tiny_adata.uns
