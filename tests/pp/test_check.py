"""The report says what is in the data, whatever is wrong with them, and writes nothing."""

import html
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import cellfm as cf
from cellfm.cells.mudata import without_pulling
from cellfm.errors import InputError, MissingKeyError
from cellfm.genes.vocabulary import Vocabulary


def dense(adata: AnnData) -> np.ndarray:
    return adata.X.toarray() if sp.issparse(adata.X) else np.asarray(adata.X)


def test_good_data_are_ok(tiny_adata: AnnData, tiny_vocab: Vocabulary):
    report = cf.pp.check(tiny_adata, model=tiny_vocab)
    counts = dense(tiny_adata)
    known = counts[:, : len(tiny_vocab)]
    assert report.ok
    assert report.problems == ()
    assert (report.n_cells, report.n_genes, report.n_known) == (*tiny_adata.shape, len(tiny_vocab))
    assert report.matched == {"symbol": len(tiny_vocab), "ensembl": 0, "previous": 0, "alias": 0}
    assert report.dropped == tuple(tiny_adata.var_names[len(tiny_vocab) :])
    assert report.share_of_counts == pytest.approx(known.sum() / counts.sum())
    depth = counts.sum(axis=1)
    assert (report.depth.least, report.depth.median, report.depth.most) == (depth.min(), np.median(depth), depth.max())
    assert report.genes_per_cell == np.median((known > 0).sum(axis=1))
    assert report.n_few == report.n_empty == 0


def test_storage_does_not_matter(tiny_adata: AnnData, tiny_vocab: Vocabulary, tmp_path: Path):
    expected = cf.pp.check(tiny_adata, model=tiny_vocab)
    counts = dense(tiny_adata)
    for stored in (
        counts,
        np.asfortranarray(counts),
        sp.csc_matrix(counts),
        counts.astype(np.uint8),
        counts.astype(int),
    ):
        assert cf.pp.check(AnnData(stored, obs=tiny_adata.obs, var=tiny_adata.var), model=tiny_vocab) == expected
    tiny_adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    assert cf.pp.check(backed, model=tiny_vocab) == expected
    backed.file.close()


def test_a_model_or_anything_with_a_vocabulary_serves(tiny_adata: AnnData, tiny_vocab: Vocabulary, tmp_path: Path):
    expected = cf.pp.check(tiny_adata, model=tiny_vocab)
    tiny_vocab.save(tmp_path)
    for model in (SimpleNamespace(vocab=tiny_vocab), tmp_path, str(tmp_path)):
        assert cf.pp.check(tiny_adata, model=model) == expected


def test_nothing_is_written(tiny_adata: AnnData, tiny_vocab: Vocabulary):
    before = tiny_adata.copy()
    cf.pp.check(tiny_adata, model=tiny_vocab)
    assert not tiny_adata.uns
    pd.testing.assert_frame_equal(tiny_adata.var, before.var)
    assert (tiny_adata.X != before.X).nnz == 0


def test_few_genes_and_empty_cells_are_counted(tiny_adata: AnnData, tiny_vocab: Vocabulary):
    counts = dense(tiny_adata)
    counts[0] = 0
    counts[1, : len(tiny_vocab)] = 0  # only unknown genes
    counts[2, 150 : len(tiny_vocab)] = 0
    report = cf.pp.check(AnnData(counts, var=tiny_adata.var), model=tiny_vocab)
    assert report.ok
    assert (report.n_few, report.n_empty) == (3, 2)
    assert any("3 of 40 cells express fewer than 200 known genes, 2 of them none" in line for line in report.advice)


@pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
def test_columns_of_one_gene_count_once(tiny_adata: AnnData, tiny_vocab: Vocabulary):
    twice = ad.concat([tiny_adata, tiny_adata[:, :100]], axis=1)
    report = cf.pp.check(twice, model=tiny_vocab)
    assert report.n_matched == report.n_known + 100
    assert report.genes_per_cell == cf.pp.check(tiny_adata, model=tiny_vocab).genes_per_cell
    assert report.merged["GENE3"] == ("GENE3", "GENE3")
    assert any("100 genes are the same as another one" in line for line in report.advice)


def log(adata: AnnData) -> AnnData:
    return AnnData(np.log1p(dense(adata) / 7), var=adata.var)


def spoiled(value: float) -> Callable[[AnnData], AnnData]:
    def spoil(adata: AnnData) -> AnnData:
        counts = dense(adata)
        counts[-1, -1] = value
        return AnnData(counts, var=adata.var)

    return spoil


def renamed(rename: Callable[[pd.Index], pd.Index]) -> Callable[[AnnData], AnnData]:
    return lambda adata: AnnData(adata.X, var=pd.DataFrame(index=rename(adata.var_names)))


BAD = {
    "log1p values": (log, "values like .* as after log-normalisation.*recover_counts"),
    "scaled values": (spoiled(-2.5), "negative values like -2.5"),
    "NaN": (spoiled(np.nan), r"not finite \(nan\)"),
    "infinite": (spoiled(np.inf), r"not finite \(inf\)"),
    "only zeros": (lambda adata: AnnData(dense(adata) * 0, var=adata.var), "nothing but zeros"),
    "few known genes": (lambda adata: adata[:, 150:].copy(), "Only 150 of the 170 genes in adata.var"),
    "mouse symbols": (renamed(lambda names: names.str.capitalize()), "look like mouse genes"),
    "mouse ids": (renamed(lambda names: pd.Index([f"ENSMUSG{i:011}" for i in range(len(names))])), "mouse genes"),
    "numbers for names": (renamed(lambda names: pd.Index([str(i) for i in range(len(names))])), "pass gene_key="),
    "no genes": (lambda adata: adata[:, []].copy(), "contain no genes"),
    "no cells": (lambda adata: adata[[]].copy(), "contain no cells"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_become_problems(case: str, tiny_adata: AnnData, tiny_vocab: Vocabulary):
    spoil, message = BAD[case]
    report = cf.pp.check(spoil(tiny_adata), model=tiny_vocab)
    assert not report.ok
    with pytest.raises(AssertionError, match=message):
        raise AssertionError("\n".join(report.problems))
    assert "not ready" in repr(report)
    assert html.escape(report.problems[0]) in report._repr_html_()


def test_bad_values_are_found_anywhere_on_disk(tiny_adata: AnnData, tiny_vocab: Vocabulary, tmp_path: Path):
    counts = sp.csr_matrix(np.tile(dense(tiny_adata), (60, 1)))  # 2,400 cells: more than one block
    counts[1000, 3] = -1
    AnnData(counts, var=tiny_adata.var).write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    assert "negative" in cf.pp.check(backed, model=tiny_vocab).problems[0]
    backed.file.close()


@pytest.mark.filterwarnings("ignore:Observation names are not unique:UserWarning")
def test_repeated_cell_names_are_allowed(tiny_adata: AnnData, tiny_vocab: Vocabulary):
    tiny_adata.obs_names = ["same"] * tiny_adata.n_obs
    report = cf.pp.check(tiny_adata, model=tiny_vocab)
    assert report.ok
    assert any("39 cell names" in line for line in report.advice)


def test_wrong_arguments_raise(tiny_adata: AnnData, tiny_vocab: Vocabulary):
    with pytest.raises(MissingKeyError, match="available: 'X'"):
        cf.pp.check(tiny_adata, model=tiny_vocab, layer="counts")
    with pytest.raises(MissingKeyError, match="not a column of var"):
        cf.pp.check(tiny_adata, model=tiny_vocab, gene_key="name")
    with pytest.raises(InputError, match="found ndarray"):
        cf.pp.check(dense(tiny_adata), model=tiny_vocab)
    with without_pulling():
        mdata = mudata.MuData({"rna": tiny_adata})
    assert cf.pp.check(mdata, model=tiny_vocab).ok
    with pytest.raises(MissingKeyError, match="available: rna"):
        cf.pp.check(mdata, model=tiny_vocab, modality="atac")


def test_raw_is_read_with_its_own_genes(tiny_adata: AnnData, tiny_vocab: Vocabulary):
    subset = log(tiny_adata)[:, :50].copy()
    subset.raw = tiny_adata
    report = cf.pp.check(subset, model=tiny_vocab, layer="raw")
    assert report.ok
    assert (report.matrix, report.n_genes) == ("adata.raw.X", tiny_adata.n_vars)


def test_the_report_names_what_it_counts(tiny_adata: AnnData, tiny_vocab: Vocabulary):
    report = cf.pp.check(tiny_adata, model=tiny_vocab)
    text = repr(report)
    for line in ("40 cells x 320 genes, ready", "300 of 320 (300 by symbol)", "20: UNKNOWN0, UNKNOWN1"):
        assert line in text
    values = text.splitlines()[1].index("whole numbers")
    assert text.splitlines()[2].index("var_names") == values, "the values are aligned"
    assert "<table>" in report._repr_html_()


def test_doubts_of_counts_are_advice(tiny_adata: AnnData, tiny_vocab: Vocabulary):
    counts = dense(tiny_adata)
    noise = np.random.default_rng(0).uniform(-5e-4, 5e-4, counts.shape)
    for values, words in (
        (counts + 1, "1 seems to have been added to all counts"),
        (np.minimum(counts, 1), "nothing but 0 and 1"),
        (counts > 0, "nothing but 0 and 1"),
        (counts + noise, "whole numbers to within 0.0005"),
    ):
        for stored in (values, sp.csr_matrix(values)):
            adata = AnnData(counts, var=tiny_adata.var, layers={"other": stored})
            report = cf.pp.check(adata, model=tiny_vocab, layer="other")
            assert report.ok
            assert any(words in line for line in report.advice)
    assert not any("adata.X" in line for line in cf.pp.check(tiny_adata, model=tiny_vocab).advice)


def test_a_block_of_ones_makes_no_binary_data(tiny_adata: AnnData, tiny_vocab: Vocabulary):
    counts = np.minimum(np.tile(dense(tiny_adata), (60, 1)), 1)
    counts[2300, 0] = 7
    report = cf.pp.check(AnnData(sp.csr_matrix(counts), var=tiny_adata.var), model=tiny_vocab)
    assert report.values == "whole numbers"
